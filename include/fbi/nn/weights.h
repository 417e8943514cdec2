#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "fbi/config/run_config.h"
#include "fbi/formats/model_source.h"
#include "fbi/nn/llama.h"
#include "fbi/ops/parameter_slot.h"

namespace fbi::nn {

/// Initial values as a function of (seed, tensor name, index): matrices normal(0,
/// initializer_range), norms 1, the padding row of the embedding 0. Has no scales: they are formed
/// from the latent weights.
std::unique_ptr<formats::ModelSource> random_weights(const config::ModelConfig& model,
                                                     std::uint64_t seed);

/// fp32 on the CPU, contiguous, owned by the caller. DataError (source, tensor, expected and found)
/// when absent, of another shape or not floating.
at::Tensor read_tensor(const formats::ModelSource& source, const std::string& name,
                       const std::vector<std::int64_t>& shape);

struct LoadReport {
  /// Latent weights that are exactly 0: the packed form takes them as +1.
  std::int64_t zero_signs = 0;
};

/// Fills one slot's working copy and returns the fp32 latent weight it was made from, on the CPU
/// (for dense slots the value itself). Slots that share alpha are filled in the model's order;
/// DataError when the source has different ones for them.
at::Tensor load_slot(ops::ParameterSlot& slot, const formats::ModelSource& source,
                     LoadReport& report);

/// Fills all slots; latent weights are dropped slot by slot. DataError as formats::check_tensors;
/// scales may be absent.
LoadReport load_weights(LlamaForCausalLM& model, const formats::ModelSource& source);

}  // namespace fbi::nn
