#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fbi/config/run_config.h"

namespace fbi::config {

/// The configuration as JSON text that load_run_config reads back to the same values
/// (floating-point numbers bit for bit).
std::string to_json(const RunConfig& config);

/// One field of the run's identity that two configurations disagree on; values as JSON text.
struct FieldDifference {
  std::string key;
  std::string saved;
  std::string current;
};

/// Identity fields in which two resolved configurations differ, in the order of docs/config.md;
/// optimizer.total_steps only where both schedules have an end.
std::vector<FieldDifference> identity_differences(const RunConfig& saved, const RunConfig& current);

/// Where BOS and EOS of a model are not those of its tokenizer: a sentence for each, which names
/// both.
std::vector<std::string> special_token_conflicts(const ModelConfig& model, std::int64_t bos_id,
                                                 std::int64_t eos_id);

/// XXH3-128 of the identity fields of a resolved configuration (canonical JSON: flat, sorted keys;
/// fields that earlier programs did not have only where they differ from their defaults; no
/// optimizer.total_steps with the constant schedule), 32 hexadecimal digits.
std::string identity_hash(const RunConfig& config);

}  // namespace fbi::config
