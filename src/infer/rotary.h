#pragma once

#include <cstdint>
#include <vector>

#include "fbi/config/run_config.h"

namespace fbi::infer {

/// Rotary embedding in the rotate-half form, with the scalings of ModelConfig::rope_scaling;
/// frequencies and angles in fp32, as the trainer has them.
class Rotary {
 public:
  explicit Rotary(const config::ModelConfig& model);
  /// cos [head_dim / 2], then sin.
  void angles(std::int64_t position, float* table) const;
  /// Rotates one head [head_dim]; `out` may be `x`.
  void rotate(const float* x, const float* table, float* out) const;
  std::int64_t table_size() const { return 2 * std::ssize(inverse_frequencies_); }

 private:
  std::vector<float> inverse_frequencies_;
};

}  // namespace fbi::infer
