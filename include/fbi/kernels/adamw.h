#pragma once

#include <cstdint>

#include "fbi/kernels/binary_matrix.h"

namespace fbi::kernels {

/// One AdamW update (Loshchilov & Hutter 2019, the order of torch.optim.AdamW):
///   p *= 1 - lr·weight_decay;  m += (1-beta1)(g-m);  v = beta2·v + (1-beta2)g²;
///   p -= lr / bias_correction1 · m / (sqrt(v) / sqrt_bias_correction2 + eps)
/// in fp32 with the roundings of PyTorch's single-tensor form on a processor with fused
/// multiply-add, but with an exactly rounded square root (PyTorch's comes from MKL and may be off
/// by one unit in the last place). Every level of the dispatch table gives the same bits.
struct AdamWStep {
  double lr = 0;
  double weight_decay = 0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double bias_correction1 = 1;       ///< 1 - beta1^updates
  double sqrt_bias_correction2 = 1;  ///< sqrt(1 - beta2^updates)
  double grad_scale = 1;             ///< clipping factor, multiplies every gradient
};

/// Dense parameters: value, moment1, moment2, grad are fp32 [count].
void adamw(float* value, float* moment1, float* moment2, const float* grad, std::int64_t count,
           const AdamWStep& step, ParallelFor& parallel);

/// Latent weights of a binarized matrix, gradient alpha·G formed on the fly; writes the new sign
/// bits while the weights are in registers and returns the number of flipped signs (changes of
/// `latent >= 0`). `alpha` must still be that of the forward.
std::int64_t adamw_latent(float* latent, float* moment1, float* moment2, const float* raw_grad,
                          const float* alpha, ScaleStrides strides, MatrixShape shape,
                          std::uint8_t* bits, const AdamWStep& step, ParallelFor& parallel);

/// Σ x², accumulated in double in fixed order (bit-equal for any thread count).
double sum_of_squares(const float* x, std::int64_t count, ParallelFor& parallel);

}  // namespace fbi::kernels
