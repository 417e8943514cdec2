#pragma once

#include <cstdint>

#include "fbi/core/parallel.h"

/// What a decoder layer computes between its matrix products, forward and backward, each in one
/// pass over memory. fp32, row-major; no result depends on the number of threads.
namespace fbi::kernels {

/// x [tokens, width], weight [width].
struct RmsNormInput {
  const float* x = nullptr;
  const float* weight = nullptr;
  std::int64_t tokens = 0;
  std::int64_t width = 0;
};
/// out = weight · x · r with r = 1 / sqrt(mean(x²) + eps) (Zhang & Sennrich 2019); inverse_rms
/// [tokens] receives r.
void rms_norm(const RmsNormInput& input, double eps, float* out, float* inverse_rms,
              ParallelFor& parallel);
/// With n = x·r and g = dout·weight: dx = r·(g - n·mean(g·n)); dweight, unless null, += Σ_t dout·n.
void rms_norm_backward(const RmsNormInput& input, const float* inverse_rms, const float* dout,
                       float* dx, float* dweight, ParallelFor& parallel);

/// out = silu(gate)·up with silu(g) = g / (1 + exp(-g)).
void silu_product(const float* gate, const float* up, std::int64_t count, float* out,
                  ParallelFor& parallel);
/// dgate = dout·up·silu'(gate), dup = dout·silu(gate); either may take the place of dout.
void silu_product_backward(const float* dout, const float* gate, const float* up,
                           std::int64_t count, float* dgate, float* dup, ParallelFor& parallel);

/// Values of one head lie side by side; strides count elements.
struct RotaryInput {
  const float* x = nullptr;  ///< [batch, positions, heads, head_dim]
  std::int64_t batch_stride = 0, position_stride = 0, head_stride = 0;
  std::int64_t batch = 0, positions = 0, heads = 0;
  std::int64_t head_dim = 0;   ///< even
  const float* cos = nullptr;  ///< [positions, head_dim / 2]
  const float* sin = nullptr;
};
/// Rotates the halves of each head, (a, b) -> (a·cos - b·sin, b·cos + a·sin), or by the opposite
/// angle (the gradient), into out, contiguous [batch, positions, heads, head_dim].
void rotary(const RotaryInput& input, bool inverse, float* out, ParallelFor& parallel);

}  // namespace fbi::kernels
