#include <algorithm>
#include <span>
#include <utility>

#include "fbi/config/model_size.h"
#include "fbi/config/tensor_names.h"
#include "fbi/core/error.h"
#include "infer/gpu_weights.h"

namespace fbi::infer::gpu {
namespace {

namespace cuda = kernels::cuda;

/// In the order of config::decoder_linears.
constexpr std::array<cuda::RepackedMatrix LayerMatrices::*, 7> kMatrices = {
    &LayerMatrices::q,    &LayerMatrices::k,  &LayerMatrices::v,   &LayerMatrices::o,
    &LayerMatrices::gate, &LayerMatrices::up, &LayerMatrices::down};

kernels::MatrixShape shape_of(const config::LinearShape& linear) {
  return {linear.outputs, linear.inputs};
}

/// To where a place was given.
void upload(const void* place, std::span<const float> values) {
  cuda::upload(const_cast<void*>(place), values.data(), values.size_bytes());
}

cuda::DenseMatrix place_dense(Places& places, const kernels::DenseLinear& matrix) {
  return {places.take<std::byte>(std::ssize(matrix.values())),
          places.take<float>(std::ssize(matrix.row_scales())), matrix.storage(), matrix.shape(),
          matrix.row_stride_bytes()};
}
void upload(const cuda::DenseMatrix& place, const kernels::DenseLinear& matrix) {
  cuda::upload(const_cast<void*>(place.values), matrix.values().data(), matrix.values().size());
  upload(place.row_scale, matrix.row_scales());
}

std::int64_t largest_bit_bytes(const config::ModelConfig& model) {
  std::int64_t largest = 0;
  for (const auto& linear : config::decoder_linears(model)) {
    largest = std::max(largest, linear.outputs * kernels::row_bytes(linear.inputs));
  }
  return largest;
}

}  // namespace

Weights::Weights(const ModelParts& parts, const std::optional<kernels::Storage>& head,
                 ParallelFor& parallel, const cuda::Queue& queue) {
  const config::ModelConfig& model = parts.config();
  const kernels::DenseLinear table =
      dense_weights(parts, config::kEmbedding, std::nullopt, parallel);
  std::optional<kernels::DenseLinear> dense;  // none: tied, and kept as the embedding is
  if (!model.tie_word_embeddings || head.value_or(table.storage()) != table.storage()) {
    dense = dense_weights(parts, head_name(model), head, parallel);
  }
  head_bytes_ = (dense ? *dense : table).weight_bytes();
  memory_ = placed("the model", [&](Places& places) { place(places, model, table, dense); });
  const cuda::DeviceMemory staging(static_cast<std::size_t>(largest_bit_bytes(model)),
                                   "loading the model");
  for (std::int64_t index = 0; index < model.num_hidden_layers; ++index) {
    load_layer(parts, index, staging.data(), queue);
  }
  upload(final_norm_, parts.norm(config::kFinalNorm));
  upload(embedding_, table);
  if (dense) upload(head_, *dense);
}

void Weights::place(Places& places, const config::ModelConfig& model,
                    const kernels::DenseLinear& embedding,
                    const std::optional<kernels::DenseLinear>& head) {
  const auto linears = config::decoder_linears(model);
  layers_.assign(static_cast<std::size_t>(model.num_hidden_layers), {});
  sign_bytes_ = 0;
  for (LayerMatrices& layer : layers_) {
    for (std::size_t n = 0; n < linears.size(); ++n) {
      const std::int64_t scales = config::scale_count(model.binarize, linears[n]);
      const std::int64_t bytes = cuda::repacked_bytes(shape_of(linears[n]));
      sign_bytes_ += static_cast<std::uint64_t>(bytes);
      layer.*kMatrices[n] = {places.take<std::byte>(bytes), places.take<float>(scales),
                             places.take<float>(scales), kernels::ScaleStrides::of(model.binarize),
                             shape_of(linears[n])};
    }
    layer.input_norm = places.take<float>(model.hidden_size);
    layer.post_attention_norm = places.take<float>(model.hidden_size);
  }
  final_norm_ = places.take<float>(model.hidden_size);
  embedding_ = place_dense(places, embedding);
  head_ = head ? place_dense(places, *head) : embedding_;
}

void Weights::load_layer(const ModelParts& parts, std::int64_t index, std::byte* staging,
                         const cuda::Queue& queue) {
  const config::ModelConfig& model = parts.config();
  const std::string prefix = config::layer_prefix(index);
  const auto linears = config::decoder_linears(model);
  LayerMatrices& layer = layers_[static_cast<std::size_t>(index)];
  std::vector<std::uint8_t> memory;
  for (std::size_t n = 0; n < linears.size(); ++n) {
    const std::string name = concat(prefix, linears[n].name);
    const cuda::RepackedMatrix& matrix = layer.*kMatrices[n];
    upload(matrix.alpha, parts.alpha(name));
    if (model.shift) upload(matrix.beta, parts.beta(name));  // the memory is 0 otherwise
    const auto bytes = matrix.shape.rows * kernels::row_bytes(matrix.shape.columns);
    cuda::upload(staging, parts.sign_bits(name, matrix.shape, memory),
                 static_cast<std::size_t>(bytes));
    const bool rotated = &matrix == &layer.q || &matrix == &layer.k;
    cuda::repack_signs(reinterpret_cast<const std::uint8_t*>(staging), matrix.shape,
                       rotated ? model.head_dim : 0, const_cast<void*>(matrix.words),
                       queue.stream());
    queue.wait();  // the staging memory is free again
  }
  upload(layer.input_norm, parts.norm(prefix + config::kInputNorm));
  upload(layer.post_attention_norm, parts.norm(prefix + config::kPostAttentionNorm));
}

}  // namespace fbi::infer::gpu
