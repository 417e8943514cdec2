#pragma once

#include <ATen/core/Tensor.h>

#include "fbi/ops/parameter_slot.h"

namespace fbi::ops {

/// W~ = alpha · sign(latent) + beta with sign(0) = 0 (paper §3.1), the latent form of a binarized
/// weight. latent: [O, I], fp32 or double. alpha, beta: [1, I] (column), [O, 1] (row) or []
/// (single), same shape and dtype; beta may be undefined: no shift. Gradients, with G = dL/dW~:
/// latent alpha·G (straight through: no clipping, zeros included), alpha Σ G·sign(latent), beta Σ
/// G, the sums over the broadcast dimensions. Throws UsageError.
at::Tensor binarize(const at::Tensor& latent, const at::Tensor& alpha, const at::Tensor& beta);

struct Scales {
  at::Tensor alpha, beta;
};

/// The published initial values from an [O, I] weight: beta its mean, alpha the mean of |weight -
/// beta|, over the rows (column), the columns (row) or everything (single), shaped as `binarize`
/// expects. Without a shift beta is undefined and alpha the mean of |weight|. No gradient.
Scales initial_scales(const at::Tensor& weight, ScalePattern pattern, bool shift = true);

}  // namespace fbi::ops
