#pragma once

#include "fbi/kernels/adamw.h"
#include "kernels/cpu_kernels.h"

namespace fbi::kernels {

/// Each constant computed in double and rounded once. Not for files with instruction-set flags.
inline AdamWConstants constants_of(const AdamWStep& step) {
  AdamWConstants c;
  c.decay = static_cast<float>(1 - step.lr * step.weight_decay);
  c.one_minus_beta1 = static_cast<float>(1 - step.beta1);
  c.beta2 = static_cast<float>(step.beta2);
  c.one_minus_beta2 = static_cast<float>(1 - step.beta2);
  c.negative_step_size = static_cast<float>(-(step.lr / step.bias_correction1));
  c.sqrt_bias_correction2 = static_cast<float>(step.sqrt_bias_correction2);
  c.eps = static_cast<float>(step.eps);
  c.grad_scale = static_cast<float>(step.grad_scale);
  return c;
}

}  // namespace fbi::kernels
