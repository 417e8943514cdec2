#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "fbi/config/tensor_names.h"
#include "fbi/core/parallel.h"
#include "fbi/infer/packed_model.h"
#include "fbi/kernels/gemv.h"
#include "infer/head_screen.h"
#include "infer/model_parts.h"

namespace fbi::infer {

struct LayerWeights {
  std::vector<float> input_norm, post_attention_norm;
  kernels::BinaryLinear q, k, v, o, gate, up, down;
};

/// A binarized model, ready for its kernels. Only the embedding stays where it came from.
class PackedWeights {
 public:
  PackedWeights(std::unique_ptr<ModelParts> parts, const PackedOptions& options,
                ParallelFor& parallel);

  const config::ModelConfig& config() const { return parts_->config(); }
  const std::vector<LayerWeights>& layers() const { return layers_; }
  const std::vector<float>& final_norm() const { return final_norm_; }
  const kernels::DenseLinear& head() const { return head_; }
  /// Null where the options want none, or the head has 8 bits anyway.
  const HeadScreen* head_screen() const { return head_screen_ ? &*head_screen_ : nullptr; }
  /// out [D] = the row of a token; `id` is in the vocabulary. DataError when it is not finite.
  void embed(std::int32_t id, std::span<float> out) const {
    parts_->row(config::kEmbedding, id, out);
  }

 private:
  std::unique_ptr<ModelParts> parts_;
  kernels::Arena signs_;
  std::vector<LayerWeights> layers_;
  std::vector<float> final_norm_;
  kernels::DenseLinear head_;
  std::optional<HeadScreen> head_screen_;
};

}  // namespace fbi::infer
