#include "infer/packed_weights.h"

#include <utility>

#include "fbi/config/model_size.h"
#include "fbi/core/error.h"

namespace fbi::infer {
namespace {

/// In the order of kLinears.
constexpr std::array<kernels::BinaryLinear LayerWeights::*, 7> kMembers = {
    &LayerWeights::q,    &LayerWeights::k,  &LayerWeights::v,   &LayerWeights::o,
    &LayerWeights::gate, &LayerWeights::up, &LayerWeights::down};

kernels::ScaleStrides scale_strides(config::Binarize binarize) {
  if (binarize == config::Binarize::kColumn) return kernels::ScaleStrides::per_column();
  return binarize == config::Binarize::kRow ? kernels::ScaleStrides::per_row()
                                            : kernels::ScaleStrides::single();
}

LayerWeights layer_weights(const ModelParts& parts, std::int64_t layer,
                           kernels::Activations activations, ParallelFor& parallel,
                           kernels::Arena& arena) {
  const std::string prefix = layer_prefix(layer);
  const auto shapes = config::decoder_linears(parts.config());
  LayerWeights weights;
  weights.input_norm = parts.norm(prefix + "input_layernorm.weight");
  weights.post_attention_norm = parts.norm(prefix + "post_attention_layernorm.weight");
  std::vector<std::uint8_t> memory;
  for (std::size_t n = 0; n < kLinears.size(); ++n) {
    const std::string name = concat(prefix, kLinears[n]);
    const kernels::MatrixShape shape = {shapes[n].outputs, shapes[n].inputs};
    const std::vector<float> alpha = parts.alpha(name);
    const std::vector<float> beta =
        parts.config().shift ? parts.beta(name) : std::vector<float>(alpha.size());
    weights.*kMembers[n] = kernels::BinaryLinear(
        parts.sign_bits(name, shape, memory), alpha, beta,
        scale_strides(parts.config().binarize), shape, activations, parallel, &arena);
  }
  return weights;
}

kernels::DenseLinear head_weights(const ModelParts& parts,
                                  const std::optional<kernels::Storage>& wanted,
                                  ParallelFor& parallel) {
  const config::ModelConfig& model = parts.config();
  const std::string name = model.tie_word_embeddings ? kEmbedding : kHead;
  const auto stored = parts.is_half(name) ? kernels::Storage::kFp16 : kernels::Storage::kFp32;
  kernels::DenseLinear head({model.vocab_size, model.hidden_size}, wanted.value_or(stored));
  parallel.run(0, model.vocab_size, 64, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> row(static_cast<std::size_t>(model.hidden_size));
    for (std::int64_t o = begin; o < end; ++o) {
      parts.row(name, o, row);
      head.set_row(o, row);
    }
  });
  return head;
}

}  // namespace

PackedWeights::PackedWeights(std::unique_ptr<ModelParts> parts, const PackedOptions& options,
                             ParallelFor& parallel)
    : parts_(std::move(parts)) {
  for (std::int64_t layer = 0; layer < config().num_hidden_layers; ++layer) {
    layers_.push_back(layer_weights(*parts_, layer, options.activations, parallel, signs_));
  }
  final_norm_ = parts_->norm(kFinalNorm);
  head_ = head_weights(*parts_, options.head, parallel);
}

}  // namespace fbi::infer
