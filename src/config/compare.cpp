#include "fbi/config/compare.h"

#include <algorithm>
#include <span>

#include "config/fields.h"
#include "config/values.h"
#include "fbi/core/error.h"
#include "fbi/core/hash.h"

namespace fbi::config {
namespace {

nlohmann::ordered_json::json_pointer pointer_to(std::string key) {
  std::replace(key.begin(), key.end(), '.', '/');
  return nlohmann::ordered_json::json_pointer("/" + key);
}

bool is_input_only(const Field& field) {
  return std::holds_alternative<std::monostate>(field.member);
}

/// The constant schedule has no end: where and at which rate others end decides nothing there.
bool decides(const Field& field, const RunConfig& config) {
  if (field.role != Role::kIdentity) return false;
  return config.optimizer.schedule != ScheduleKind::kConstant ||
         (field.key != "optimizer.total_steps" && field.key != "optimizer.end_lr");
}

}  // namespace

std::string to_json(const RunConfig& config) {
  RunConfig copy = config;
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  for (const Field& field : fields_of(copy)) {
    if (!is_input_only(field)) out[pointer_to(field.key)] = write_value(field);
  }
  return out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::vector<FieldDifference> identity_differences(const RunConfig& saved,
                                                  const RunConfig& current) {
  RunConfig saved_copy = saved;
  RunConfig current_copy = current;
  const auto saved_fields = fields_of(saved_copy);
  const auto current_fields = fields_of(current_copy);
  std::vector<FieldDifference> differences;
  for (std::size_t i = 0; i < saved_fields.size(); ++i) {
    if (!decides(saved_fields[i], saved) || !decides(current_fields[i], current)) continue;
    const Json before = write_value(saved_fields[i]);
    const Json after = write_value(current_fields[i]);
    if (before != after) differences.push_back({saved_fields[i].key, show(before), show(after)});
  }
  return differences;
}

std::vector<std::string> special_token_conflicts(const ModelConfig& model, std::int64_t bos_id,
                                                 std::int64_t eos_id) {
  std::vector<std::string> conflicts;
  if (model.bos_token_id != bos_id)
    conflicts.push_back(
        concat("its BOS is ", bos_id, ", but model.bos_token_id is ", model.bos_token_id));
  if (!std::ranges::count(model.eos_token_id, eos_id))
    conflicts.push_back(
        concat("its EOS is ", eos_id, ", but model.eos_token_id is ", show(model.eos_token_id)));
  return conflicts;
}

std::string identity_hash(const RunConfig& config) {
  RunConfig copy = config, defaults;
  const auto fields = fields_of(copy);
  const auto default_fields = fields_of(defaults);
  Json identity = Json::object();
  for (std::size_t i = 0; i < fields.size(); ++i) {
    const Field& field = fields[i];
    if (!decides(field, config) || is_input_only(field)) continue;
    Json value = write_value(field);
    if (field.added_later && value == write_value(default_fields[i])) continue;
    identity[field.key] = std::move(value);
  }
  const std::string text = identity.dump(-1, ' ', false, Json::error_handler_t::replace);
  return hash128_hex(std::as_bytes(std::span(text.data(), text.size())));
}

}  // namespace fbi::config
