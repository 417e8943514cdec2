#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "fbi/core/error.h"
#include "serve/completion_api.h"

namespace fbi::serve {

using Json = nlohmann::json;

inline constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();

/// 3.0 is an integer, too; what does not fit becomes the one next to it.
inline std::optional<std::int64_t> whole(const Json& value) {
  if (value.is_number_unsigned()) {
    return static_cast<std::int64_t>(
        std::min(value.get<std::uint64_t>(), static_cast<std::uint64_t>(kMost)));
  }
  if (value.is_number_integer()) return value.get<std::int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const double number = value.get<double>();
  if (std::trunc(number) != number) return std::nullopt;
  if (std::abs(number) >= 0x1p63) return number > 0 ? kMost : -kMost;
  return static_cast<std::int64_t>(number);
}

/// The fields of a body. Each that is read counts as known; null is the same as absent.
class Fields {
 public:
  Fields(const Json& object, std::string prefix) : object_(object), prefix_(std::move(prefix)) {}

  /// nullptr: absent.
  const Json* find(const std::string& name) {
    known_.insert(name);
    const auto found = object_.find(name);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  double number(const std::string& name, double otherwise) {
    const Json* value = find(name);
    if (value && !value->is_number()) wrong_type(name, "a number", *value);
    return value ? value->get<double>() : otherwise;
  }
  std::int64_t integer(const std::string& name, std::int64_t otherwise, std::int64_t least,
                       std::int64_t most) {
    const Json* value = find(name);
    if (!value) return otherwise;
    const auto number = whole(*value);
    if (!number) wrong_type(name, "an integer", *value);
    if (*number < least || *number > most) {
      refuse(name, concat("expected ", least, " to ", most, ", found ", value->dump()));
    }
    return *number;
  }
  bool flag(const std::string& name, bool otherwise) {
    const Json* value = find(name);
    if (value && !value->is_boolean()) wrong_type(name, "true or false", *value);
    return value ? value->get<bool>() : otherwise;
  }

  /// Fields that change nothing here.
  void ignore(std::initializer_list<const char*> names) {
    known_.insert(names.begin(), names.end());
  }
  /// A field that would change the result, unless it has the value that does nothing.
  void only(const std::string& name, const Json& neutral) {
    const Json* value = find(name);
    if (!value || *value == neutral) return;
    refuse(name, concat("is not supported; leave it out", neutral.is_null() ? "" : " or send ",
                        neutral.is_null() ? "" : neutral.dump()));
  }
  void refuse_others() const {
    for (const auto& [name, value] : object_.items()) {
      if (!known_.contains(name) && !value.is_null()) {
        throw ApiError(400, concat("unknown field ", prefix_, name), prefix_ + name);
      }
    }
  }

  [[noreturn]] void refuse(const std::string& name, const std::string& what) const {
    throw ApiError(400, concat(prefix_, name, ": ", what), prefix_ + name);
  }
  [[noreturn]] void wrong_type(const std::string& name, const char* expected,
                               const Json& found) const {
    const char* type = found.is_number_float() ? "a number with a fraction" : found.type_name();
    refuse(name, concat("expected ", expected, ", found ", type));
  }

 private:
  const Json& object_;
  std::string prefix_;
  std::set<std::string> known_;
};

}  // namespace fbi::serve
