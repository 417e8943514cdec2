#include "fbi/config/huggingface.h"

#include <nlohmann/json.hpp>

#include "config/architecture.h"
#include "config/fields.h"
#include "config/reader.h"
#include "config/values.h"
#include "fbi/config/load.h"
#include "fbi/core/error.h"

namespace fbi::config {

ModelConfig model_config_from_hf_json(std::string_view text, const std::string& source_name) {
  Problems problems;
  const Json source = parse_document<DataError>(text, source_name, problems);
  const Json plain = plain_architecture(source, "", UnknownKeys::kLog, problems);
  ModelConfig model;
  model.binarize = Binarize::kNone;
  const auto fields = fields_of(model, "");
  read_fields(fields, plain, problems);
  for (const Field& field : fields) check_range(field, problems);
  check_model(model, "", problems);
  if (!problems.empty()) throw DataError(problems.report(source_name));
  resolve(model);
  return model;
}

std::string model_config_to_hf_json(const ModelConfig& unresolved, std::string_view torch_dtype,
                                    ModelName name) {
  ModelConfig model = unresolved;
  resolve(model);
  nlohmann::ordered_json out;
  const bool packed = name == ModelName::kPacked;
  out["architectures"] = {packed ? "FbiLlamaForCausalLM" : "LlamaForCausalLM"};
  out["model_type"] = packed ? kPackedModelType : "llama";
  for (const Field& field : fields_of(model, "")) {
    const bool written_below = field.key.rfind("rope_scaling", 0) == 0 ||
                               field.key == "eos_token_id" || field.key == "binarize" ||
                               field.key == "tie_scales" || field.key == "shift";
    if (!written_below && !std::holds_alternative<std::monostate>(field.member)) {
      out[field.key] = write_value(field);
    }
  }
  if (model.eos_token_id.empty()) {
    out["eos_token_id"] = nullptr;
  } else if (model.eos_token_id.size() == 1) {
    out["eos_token_id"] = model.eos_token_id.front();
  } else {
    out["eos_token_id"] = model.eos_token_id;
  }
  const RopeScaling& rope = model.rope_scaling;
  nlohmann::ordered_json& scaling = out["rope_scaling"];
  if (rope.type != "default") {
    scaling["rope_type"] = rope.type;
    scaling["factor"] = rope.factor;
  }
  if (rope.type == "llama3") {
    scaling["low_freq_factor"] = rope.low_freq_factor;
    scaling["high_freq_factor"] = rope.high_freq_factor;
    scaling["original_max_position_embeddings"] = rope.original_max_position_embeddings;
  }
  out["hidden_act"] = "silu";
  out["attention_bias"] = false;
  out["attention_dropout"] = 0.0;
  out["mlp_bias"] = false;
  out["pretraining_tp"] = 1;
  out["use_cache"] = true;
  out["torch_dtype"] = std::string(torch_dtype);
  if (model.binarize != Binarize::kNone) {
    out["binarize"] = std::string(to_string(model.binarize));
    if (model.tie_scales) out["tie_scales"] = true;
    if (!model.shift) out["shift"] = false;
  }
  return out.dump(2) + "\n";
}

}  // namespace fbi::config
