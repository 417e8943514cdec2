#include "estimate/parameter_shapes.h"

#include "fbi/config/model_size.h"
#include "fbi/distributed/shard_plan.h"

namespace fbi::estimate {

std::int64_t ParameterMatrix::block_rows(int world_size) const {
  return distributed::ShardPlan(rows, world_size).block_rows();
}

ParameterShapes parameter_shapes(const config::ModelConfig& model) {
  const bool packed = model.binarize != config::Binarize::kNone;
  ParameterShapes shapes;
  for (const auto& linear : config::decoder_linears(model))
    shapes.layer.push_back({linear.outputs, linear.inputs, packed});
  shapes.layers = model.num_hidden_layers;
  shapes.embedding = {model.vocab_size, model.hidden_size, false};
  shapes.has_head = !model.tie_word_embeddings;
  const std::int64_t norms = 2 * model.num_hidden_layers + 1;
  shapes.norm_elements = norms * model.hidden_size;
  shapes.scale_elements = shapes.scale_values = config::parameter_counts(model).scales;
  for (const auto& linear : config::decoder_linears(model))
    if (!model.shift)
      shapes.scale_values += model.num_hidden_layers * config::scale_count(model.binarize, linear);
  shapes.slots = model.num_hidden_layers * static_cast<std::int64_t>(shapes.layer.size()) + norms +
                 (shapes.has_head ? 2 : 1);
  return shapes;
}

}  // namespace fbi::estimate
