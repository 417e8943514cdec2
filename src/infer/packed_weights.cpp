#include "infer/packed_weights.h"

#include <array>
#include <utility>

#include "fbi/config/model_size.h"
#include "fbi/config/tensor_names.h"
#include "fbi/core/error.h"

namespace fbi::infer {
namespace {

/// In the order of config::decoder_linears.
constexpr std::array<kernels::BinaryLinear LayerWeights::*, 7> kMembers = {
    &LayerWeights::q,    &LayerWeights::k,  &LayerWeights::v,   &LayerWeights::o,
    &LayerWeights::gate, &LayerWeights::up, &LayerWeights::down};

LayerWeights layer_weights(const ModelParts& parts, std::int64_t layer,
                           kernels::Activations activations, ParallelFor& parallel,
                           kernels::Arena& arena) {
  const std::string prefix = config::layer_prefix(layer);
  const auto shapes = config::decoder_linears(parts.config());
  LayerWeights weights;
  weights.input_norm = parts.norm(prefix + config::kInputNorm);
  weights.post_attention_norm = parts.norm(prefix + config::kPostAttentionNorm);
  std::vector<std::uint8_t> memory;
  for (std::size_t n = 0; n < shapes.size(); ++n) {
    const std::string name = concat(prefix, shapes[n].name);
    const kernels::MatrixShape shape = {shapes[n].outputs, shapes[n].inputs};
    const std::vector<float> alpha = parts.alpha(name);
    const std::vector<float> beta =
        parts.config().shift ? parts.beta(name) : std::vector<float>(alpha.size());
    weights.*kMembers[n] = kernels::BinaryLinear(parts.sign_bits(name, shape, memory), alpha, beta,
                                                 kernels::ScaleStrides::of(parts.config().binarize),
                                                 shape, activations, parallel, &arena);
  }
  return weights;
}

}  // namespace

PackedWeights::PackedWeights(std::unique_ptr<ModelParts> parts, const PackedOptions& options,
                             ParallelFor& parallel)
    : parts_(std::move(parts)) {
  for (std::int64_t layer = 0; layer < config().num_hidden_layers; ++layer) {
    layers_.push_back(layer_weights(*parts_, layer, options.activations, parallel, signs_));
  }
  final_norm_ = parts_->norm(config::kFinalNorm);
  const std::string name = head_name(config());
  head_ = dense_weights(*parts_, name, options.head, parallel);
  if (options.head_screen && head_.storage() != kernels::Storage::kInt8) {
    head_screen_.emplace(*parts_, name, head_, parallel);
  }
}

}  // namespace fbi::infer
