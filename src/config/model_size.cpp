#include "fbi/config/model_size.h"

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

std::array<LinearShape, 7> decoder_linears(const ModelConfig& model) {
  const std::int64_t hidden = model.hidden_size;
  const std::int64_t queries = model.num_attention_heads * model.head_dim;
  const std::int64_t keys = model.num_key_value_heads * model.head_dim;
  const std::int64_t wide = model.intermediate_size;
  return {{{queries, hidden},
           {keys, hidden},
           {keys, hidden},
           {hidden, queries},
           {wide, hidden},
           {wide, hidden},
           {hidden, wide}}};
}

ModelSize parameter_counts(const ModelConfig& model) {
  const std::int64_t hidden = model.hidden_size;
  ModelSize size;
  std::int64_t weights = 0;
  for (const LinearShape& shape : decoder_linears(model)) {
    weights += shape.outputs * shape.inputs;
    size.scales += 2 * scale_count(model.binarize, shape);
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
