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

/// Where the values of a model come from, by published tensor name.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual std::string description() const = 0;
  virtual std::vector<std::string> names() const = 0;
  virtual bool contains(const std::string& name) const = 0;
  /// What tensor() says of a tensor that has another shape, without reading it.
  virtual void check_shape(const std::string&, const std::vector<std::int64_t>&) const {}
  /// fp32 on the CPU, contiguous, owned by the caller. DataError (file, tensor, expected and found)
  /// when absent, of another shape or not floating.
  virtual at::Tensor tensor(const std::string& name,
                            const std::vector<std::int64_t>& shape) const = 0;
};

/// Initial values as a function of (seed, tensor name, index): matrices normal(0,
/// initializer_range), norms 1, the padding row of the embedding 0. Has no scales: they are formed
/// from the latent weights.
std::unique_ptr<WeightSource> random_weights(const config::ModelConfig& model, std::uint64_t seed);
/// A model folder or a checkpoint (formats::folder_source, formats::checkpoint_source).
std::unique_ptr<WeightSource> stored_weights(std::unique_ptr<formats::ModelSource> source);

struct LoadReport {
  /// Latent weights that are exactly 0: the packed form takes them as +1.
  std::int64_t zero_signs = 0;
};

/// Fills one slot's working copy and returns the fp32 latent weight it was made from, on the CPU
/// (for dense slots the value itself). Slots that share alpha are filled in the model's order;
/// DataError when the source has different ones for them.
at::Tensor load_slot(ops::ParameterSlot& slot, const WeightSource& source, LoadReport& report);

/// Fills all slots; latent weights are dropped slot by slot. Throws DataError naming missing,
/// unused or misshapen tensors.
LoadReport load_weights(LlamaForCausalLM& model, const WeightSource& source);

/// Throws DataError when names of `source` and of the model's parameters do not match one to one
/// (`rotary_emb.inv_freq` is ignored, scales may be absent as a whole, a tied head may be
/// repeated), or a shape is another one. Reads no values; the model needs none either (at::kMeta).
void check_weights(const LlamaForCausalLM& model, const WeightSource& source);

}  // namespace fbi::nn
