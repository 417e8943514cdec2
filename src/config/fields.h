#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "fbi/config/run_config.h"

/// The one list of configuration fields. Reading, writing, overrides, ranges, help, docs/config.md,
/// comparison and hash all run over it; adding a field means one member in run_config.h and one
/// line in fields.cpp.
namespace fbi::config {

/// Whether a field decides what a run computes (fixed when it is continued) or only how.
enum class Role { kIdentity, kFree };

/// Legal numbers; NaN is in no range.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_open = false;
  bool high_open = false;
  bool contains(double value) const {
    return (low_open ? value > low : value >= low) && (high_open ? value < high : value <= high);
  }
};

/// Where the value lives. monostate: a key that is only read, and replaced by others
/// (model.architecture).
using Member =
    std::variant<std::monostate, bool*, std::int64_t*, std::uint64_t*, double*, std::string*,
                 std::optional<std::int64_t>*, std::vector<std::int64_t>*, std::vector<double>*,
                 std::vector<std::string>*, Binarize*, Precision*, DataFormat*, ScheduleKind*>;

/// Spellings of an enumeration, in the order of its values.
std::span<const std::string_view> spellings(Binarize);
std::span<const std::string_view> spellings(Precision);
std::span<const std::string_view> spellings(DataFormat);
std::span<const std::string_view> spellings(ScheduleKind);

struct Field {
  std::string key;  ///< dotted
  Member member;
  std::string help;
  Range range;                       ///< of a number, or of each number of a list
  std::vector<std::string> choices;  ///< of an enumeration or a text; empty: any
  Role role = Role::kIdentity;
  bool required = false;  ///< the default is not a legal value
  /// Of the identity, but newer than its hash, which leaves the default out: the hashes of earlier
  /// runs stay.
  bool added_later = false;
};

/// Fields of a configuration; the pointers live as long as the argument.
std::vector<Field> fields_of(RunConfig& config);
/// `prefix` is "model." or, for an architecture file, "".
std::vector<Field> fields_of(ModelConfig& config, const std::string& prefix);

/// Title of each section for the documentation: {"optimizer", "AdamW, clipping and schedule"}, in
/// order.
std::span<const std::pair<std::string_view, std::string_view>> sections();

}  // namespace fbi::config
