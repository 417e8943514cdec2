#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "fbi/config/run_config.h"
#include "fbi/nn/llama.h"
#include "fbi/ops/loss.h"
#include "fbi/ops/loss_sums.h"

namespace fbi::distill {

/// Rows of a teacher's head that are converted at a time, where it is kept in another type than it
/// is multiplied in (on CPUs).
inline constexpr std::int64_t kTeacherHeadRows = 2048;

/// Head and loss of one micro-step, in chunks of tokens: the logits of student and teacher exist
/// for one chunk at a time, never [T, V].
class Objective {
 public:
  Objective(const config::ObjectiveConfig& objective, std::int64_t chunk_tokens);
  bool needs_teacher() const { return weights_.distill > 0; }

  struct Result {
    at::Tensor dhidden;  ///< fp32, shape of the student's hidden states
    at::Tensor sums;     ///< over the T tokens, as of ops::distill_loss: nobody has waited for them
  };
  /// student_hidden [B, S, D] and teacher_hidden [B, S, Dt] (undefined without teacher) after the
  /// final norms; targets int32 [T = B·S]. Adds the head's gradient to its slot; gradients carry
  /// the factor `grad_scale`.
  Result run(nn::LlamaForCausalLM& student, const at::Tensor& student_hidden,
             nn::LlamaForCausalLM* teacher, const at::Tensor& teacher_hidden,
             const at::Tensor& targets, double grad_scale) const;

  /// next_token·mean(next token) + distill·mean(distillation), from sums over `tokens` tokens.
  double loss(const ops::LossSums& sums, std::int64_t tokens) const;

 private:
  ops::LossWeights weights_;
  std::int64_t chunk_tokens_;
};

}  // namespace fbi::distill
