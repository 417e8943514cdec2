#pragma once

#include <ATen/core/Tensor.h>

#include "fbi/ops/parameter_slot.h"

namespace fbi::ops {

/// slot.bits from the latent weight (fp32 [O, I]): `latent >= 0` is +1.
void pack_signs(ParameterSlot& slot, const at::Tensor& latent);

/// slot.alpha and slot.beta from the latent weight, as the published method starts: beta = mean (0
/// without a shift), alpha = mean |W - beta|. A tied alpha is the mean over the rows of all its
/// slots, which come here in the model's order. slot.bits must be packed.
void initial_scales(ParameterSlot& slot, const at::Tensor& latent);

}  // namespace fbi::ops
