#pragma once

#include <ATen/core/Tensor.h>

#include "fbi/ops/loss_sums.h"

namespace fbi::ops {

struct LossWeights {
  double next_token = 0;
  double distill = 1;
  double temperature = 1;
};

/// kernels::distill_loss on tensors: `logits` [T, V] fp32 contiguous becomes grad_scale · dLoss/dlogits; `teacher_logits` [T, V] fp32
/// or undefined; `targets` int32 [T]. Sums run in token order (bit-equal for any thread count).
LossSums distill_loss(at::Tensor& logits, const at::Tensor& teacher_logits, const at::Tensor& targets,
                      const LossWeights& weights, double grad_scale);

/// -log softmax(logits)[targets], [T] fp32; logits [T, V] fp32, targets int32 [T].
at::Tensor next_token_nll(const at::Tensor& logits, const at::Tensor& targets);

}  // namespace fbi::ops
