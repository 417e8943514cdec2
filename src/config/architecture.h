#pragma once

#include <string>

#include "config/json.h"
#include "config/problems.h"
#include "fbi/config/run_config.h"

/// Hugging Face LlamaConfig keys, as they stand in the `model` section and in architecture files.
namespace fbi::config {

/// model_type of packed exports.
inline constexpr const char* kPackedModelType = "fbi_llama";

/// What to do with keys that nobody knows.
enum class UnknownKeys { kKeep, kLog };

/// Rewrites a LlamaConfig object into ModelConfig's own keys: rope_parameters becomes rope_theta
/// and rope_scaling, keys that do not change the maths and keys that are null go away, keys that
/// change it and are not implemented become problems. Values of other keys are not checked here.
/// `prefix` stands before keys in messages.
Json plain_architecture(const Json& source, const std::string& prefix, UnknownKeys unknown,
                        Problems& problems);

/// Rules between fields of a model, e.g. that heads divide; `prefix` as above. `model` need not be
/// resolved.
void check_model(const ModelConfig& model, const std::string& prefix, Problems& problems);

}  // namespace fbi::config
