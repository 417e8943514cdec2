#pragma once

#include <ATen/core/Tensor.h>

#include "fbi/config/run_config.h"

namespace fbi::nn {

/// cos and sin of consecutive positions, [S, E/2] each.
struct RotaryTable {
  at::Tensor cos;
  at::Tensor sin;
};

/// Rotary position embedding (Su et al. 2021) with the frequencies of transformers' LLaMA: plain,
/// "linear" or "llama3" scaling.
class RotaryEmbedding {
 public:
  RotaryEmbedding(const config::ModelConfig& model, at::Device device);
  /// Positions [first, first + count), rounded to `dtype` (angles are formed in fp32, as
  /// published).
  RotaryTable table(std::int64_t first, std::int64_t count, at::ScalarType dtype) const;

 private:
  at::Tensor inverse_frequencies_;  // fp32 [E/2]
};

}  // namespace fbi::nn
