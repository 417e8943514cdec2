#include "fbi/config/model_tensors.h"

#include <cstddef>

#include "fbi/config/load.h"
#include "fbi/config/model_size.h"
#include "fbi/config/tensor_names.h"
#include "fbi/core/error.h"

namespace fbi::config {
namespace {

constexpr std::size_t kFirstOfMlp = 4;  // of decoder_linears

void add_linear(std::vector<TensorSpec>& tensors, const ModelConfig& model, std::int64_t layer,
                const LinearShape& linear) {
  const std::string name = concat(layer_prefix(layer), linear.name, kLatentWeight);
  const bool dense = model.binarize == Binarize::kNone;
  tensors.push_back({name,
                     {linear.outputs, linear.inputs},
                     dense ? TensorSpec::Role::kDense : TensorSpec::Role::kLatent});
  if (dense) return;
  const std::vector<std::int64_t> scales = scale_shape(model.binarize, linear);
  tensors.push_back({scale_name(name), scales, TensorSpec::Role::kScale});
  if (model.shift) tensors.push_back({shift_name(name), scales, TensorSpec::Role::kShift});
}

void add_layer(std::vector<TensorSpec>& tensors, const ModelConfig& model, std::int64_t layer) {
  const auto norm = [&](const char* name) {
    tensors.push_back({layer_prefix(layer) + name, {model.hidden_size}});
  };
  const auto linears = decoder_linears(model);
  norm(kInputNorm);
  for (std::size_t n = 0; n < linears.size(); ++n) {
    if (n == kFirstOfMlp) norm(kPostAttentionNorm);
    add_linear(tensors, model, layer, linears[n]);
  }
}

}  // namespace

std::int64_t TensorSpec::numel() const {
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) count *= extent;
  return count;
}

std::vector<TensorSpec> model_tensors(const ModelConfig& unresolved) {
  ModelConfig model = unresolved;
  resolve(model);
  std::vector<TensorSpec> tensors;
  tensors.push_back({kEmbedding, {model.vocab_size, model.hidden_size}});
  for (std::int64_t layer = 0; layer < model.num_hidden_layers; ++layer) {
    add_layer(tensors, model, layer);
  }
  tensors.push_back({kFinalNorm, {model.hidden_size}});
  if (!model.tie_word_embeddings) {
    tensors.push_back({kHead, {model.vocab_size, model.hidden_size}});
  }
  return tensors;
}

}  // namespace fbi::config
