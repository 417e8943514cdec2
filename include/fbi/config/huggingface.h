#pragma once

#include <string>
#include <string_view>

#include "fbi/config/run_config.h"

namespace fbi::config {

/// Reads a LLaMA `config.json` of Hugging Face transformers, version 4 (rope_theta, rope_scaling)
/// or 5 (rope_parameters), into a resolved ModelConfig. `binarize` is none unless the file has that
/// key of ours. Keys that change the maths and are not implemented are refused by name
/// (attention_bias, mlp_bias, sliding_window, hidden_act other than silu, unknown rope type,
/// quantization_config, other model_type, …); unknown keys are logged at debug level. All problems
/// come together in one DataError that starts with `source_name`. The names of packed exports are
/// read like those of a LLaMA, which older ones have.
ModelConfig model_config_from_hf_json(std::string_view text, const std::string& source_name);

/// What a config.json calls its model. kPacked is a name that transformers does not know: it would
/// load a folder of sign bits as a LLaMA with random matrices.
enum class ModelName { kLlama, kPacked };

/// The inverse, in version 4 keys that version 5 reads too: a stock LlamaForCausalLM. `torch_dtype`
/// as in "float16". `binarize` is written only when it is not none, and beside it `tie_scales` and
/// `shift` where they are not the default.
std::string model_config_to_hf_json(const ModelConfig& model, std::string_view torch_dtype,
                                    ModelName name = ModelName::kLlama);

}  // namespace fbi::config
