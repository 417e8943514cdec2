#include <cmath>

#include "kernels/ref/ref.h"

namespace fbi::kernels::ref {
namespace {

/// The roundings of torch.optim.AdamW (one tensor, CPU with fused multiply-add): lerp_, addcmul_
/// and addcdiv_.
void update(float& value, float& moment1, float& moment2, float grad, const AdamWConstants& c) {
  const float g = grad * c.grad_scale;
  moment1 = std::fma(c.one_minus_beta1, g - moment1, moment1);
  moment2 = std::fma(c.one_minus_beta2 * g, g, c.beta2 * moment2);
  const float denominator = std::sqrt(moment2) / c.sqrt_bias_correction2 + c.eps;
  value = value * c.decay + c.negative_step_size * moment1 / denominator;
}

}  // namespace

void adamw(float* value, float* moment1, float* moment2, const float* grad, std::int64_t count,
           const AdamWConstants& constants) {
  for (std::int64_t i = 0; i < count; ++i) {
    update(value[i], moment1[i], moment2[i], grad[i], constants);
  }
}

std::int64_t adamw_latent_row(const LatentRow& row, const AdamWConstants& constants) {
  std::int64_t flips = 0;
  for (std::int64_t i = 0; i < row.columns; ++i) {
    const bool before = row.latent[i] >= 0;
    update(row.latent[i], row.moment1[i], row.moment2[i],
           row.alpha[row.per_column ? i : 0] * row.raw_grad[i], constants);
    flips += before != (row.latent[i] >= 0);
  }
  pack_row(row.latent, row.columns, row.bits);
  return flips;
}

}  // namespace fbi::kernels::ref
