#include "fbi/config/model_size.h"

#include <cstddef>

#include "fbi/core/error.h"

namespace fbi::config {

std::int64_t scale_count(Binarize binarize, const LinearShape& shape) {
  switch (binarize) {
    case Binarize::kColumn:
      return shape.inputs;
    case Binarize::kRow:
      return shape.outputs;
    case Binarize::kSingle:
      return 1;
    case Binarize::kNone:
      return 0;
  }
  return 0;
}

std::vector<std::int64_t> scale_shape(Binarize binarize, const LinearShape& shape) {
  switch (binarize) {
    case Binarize::kColumn:
      return {1, shape.inputs};
    case Binarize::kRow:
      return {shape.outputs, 1};
    case Binarize::kSingle:
      return {};
    case Binarize::kNone:
      break;
  }
  throw UsageError("a dense model has no scales");
}

Binarize binarize_of_scale(const std::vector<std::int64_t>& shape) {
  if (shape.empty()) return Binarize::kSingle;
  return shape.front() == 1 ? Binarize::kColumn : Binarize::kRow;
}

std::array<LinearShape, 7> decoder_linears(const ModelConfig& model) {
  const std::int64_t hidden = model.hidden_size;
  const std::int64_t queries = model.num_attention_heads * model.head_dim;
  const std::int64_t keys = model.num_key_value_heads * model.head_dim;
  const std::int64_t wide = model.intermediate_size;
  return {{{queries, hidden, "self_attn.q_proj"},
           {keys, hidden, "self_attn.k_proj"},
           {keys, hidden, "self_attn.v_proj"},
           {hidden, queries, "self_attn.o_proj"},
           {wide, hidden, "mlp.gate_proj"},
           {wide, hidden, "mlp.up_proj"},
           {hidden, wide, "mlp.down_proj"}}};
}

std::array<std::size_t, 7> scale_owners(const ModelConfig& model) {
  if (model.tie_scales) return {0, 0, 0, 3, 4, 4, 6};
  return {0, 1, 2, 3, 4, 5, 6};
}

ModelSize parameter_counts(const ModelConfig& model) {
  const std::int64_t hidden = model.hidden_size;
  ModelSize size;
  std::int64_t weights = 0;
  const auto linears = decoder_linears(model);
  const auto owners = scale_owners(model);
  for (std::size_t n = 0; n < linears.size(); ++n) {
    weights += linears[n].outputs * linears[n].inputs;
    const int learned = (owners[n] == n) + model.shift;
    size.scales += learned * scale_count(model.binarize, linears[n]);
  }
  weights *= model.num_hidden_layers;
  size.scales *= model.num_hidden_layers;
  const std::int64_t vocabulary = model.vocab_size * hidden * (model.tie_word_embeddings ? 1 : 2);
  const std::int64_t norms = hidden * (2 * model.num_hidden_layers + 1);
  size.dense = vocabulary + norms;
  (model.binarize == Binarize::kNone ? size.dense : size.binarized) += weights;
  return size;
}

}  // namespace fbi::config
