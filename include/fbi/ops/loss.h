#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "fbi/ops/loss_sums.h"

namespace fbi::ops {

struct LossWeights {
  double next_token = 0;
  double distill = 1;
  double temperature = 1;
};

/// Type that distill_loss takes logits in, of which student and teacher have `student` and
/// `teacher`.
at::ScalarType logits_dtype(at::Device device, at::ScalarType student, at::ScalarType teacher);

/// kernels::distill_loss on tensors: `logits` [T, V] contiguous becomes grad_scale · dLoss/dlogits,
/// formed in fp32; `teacher_logits` [T, V] of the same dtype (logits_dtype) or undefined; `targets`
/// int32 [T]. Returns the sums over the tokens, fp64 [2] on the device of the logits: next token,
/// distillation. Those of a CPU run in token order (bit-equal for any thread count).
at::Tensor distill_loss(at::Tensor& logits, const at::Tensor& teacher_logits,
                        const at::Tensor& targets, const LossWeights& weights, double grad_scale);

/// What distill_loss returned, or a stack of that; waits for a GPU.
std::vector<LossSums> read_sums(const at::Tensor& sums);

/// -log softmax(logits)[targets], [T] fp32; logits [T, V] fp32, targets int32 [T].
at::Tensor next_token_nll(const at::Tensor& logits, const at::Tensor& targets);

}  // namespace fbi::ops
