#include "infer/model_parts.h"

#include "fbi/config/tensor_names.h"

namespace fbi::infer {

const char* head_name(const config::ModelConfig& model) {
  return model.tie_word_embeddings ? config::kEmbedding : config::kHead;
}

kernels::DenseLinear dense_weights(const ModelParts& parts, const std::string& name,
                                   const std::optional<kernels::Storage>& wanted,
                                   ParallelFor& parallel) {
  const config::ModelConfig& model = parts.config();
  const auto stored = parts.is_half(name) ? kernels::Storage::kFp16 : kernels::Storage::kFp32;
  kernels::DenseLinear weights({model.vocab_size, model.hidden_size}, wanted.value_or(stored));
  parallel.run(0, model.vocab_size, 64, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> row(static_cast<std::size_t>(model.hidden_size));
    for (std::int64_t o = begin; o < end; ++o) {
      parts.row(name, o, row);
      weights.set_row(o, row);
    }
  });
  return weights;
}

}  // namespace fbi::infer
