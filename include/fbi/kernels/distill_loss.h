#pragma once

#include <cstdint>

#include "fbi/core/parallel.h"

namespace fbi::kernels {

/// Loss and logit gradient of a chunk of T tokens over V classes:
///   loss_next[t]    = -log softmax(z_t)[y_t]
///   loss_distill[t] = -τ² Σ_v softmax(teacher_t/τ)[v] · log softmax(z_t/τ)[v]
///   z_t <- grad_scale · d(next_token·loss_next + distill·loss_distill)/dz_t     (in place)
/// The distillation loss is left alone when its weight is 0, and the teacher is not read. The
/// next-token loss is computed wherever loss_next is given, also with the weight 0 (at τ = 1 it
/// shares the distillation's softmax and costs a logarithm); without it, and with the weight 0, the
/// targets are not read. NaN or +inf among the logits that are read make the token's loss
/// non-finite, and so does -inf where the target or the teacher puts probability. A token's result
/// depends on its own row only, never on the number of threads; avx512, avx2 and neon give the same
/// bits, ref (exponential in double) differs by about 1e-7 of each probability. Throws DataError
/// when a target is not in [0, V), UsageError when the temperature is not positive or an array is
/// missing.
struct DistillLossArgs {
  float* logits = nullptr;                ///< [T, V] fp32; replaced by the gradient
  const float* teacher_logits = nullptr;  ///< [T, V] fp32 or null
  const std::int32_t* targets = nullptr;  ///< [T]
  std::int64_t tokens = 0;                ///< T
  std::int64_t vocab_size = 0;            ///< V
  double next_token = 0;
  double distill = 1;
  double temperature = 1;         ///< τ
  double grad_scale = 1;          ///< usually 1 / (tokens of the whole optimizer step)
  float* loss_next = nullptr;     ///< [T]
  float* loss_distill = nullptr;  ///< [T]
};

void distill_loss(const DistillLossArgs& args, ParallelFor& parallel);

/// out[t] = -log softmax(logits_t)[targets_t], the bits of loss_next; logits are not changed.
/// Throws like distill_loss.
void next_token_nll(const float* logits, const std::int32_t* targets, std::int64_t tokens,
                    std::int64_t vocab_size, float* out, ParallelFor& parallel);

}  // namespace fbi::kernels
