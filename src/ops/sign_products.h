#pragma once

#include <ATen/core/Tensor.h>

#include "fbi/ops/parameter_slot.h"

/// The products of a packed slot from its sign bits: no W~ is formed. Tables: one per token and
/// five inputs holds all sums of ±alpha·x, each row looks its signs up (kernels/gemv.h); beta is
/// one dot product per token. Rounds differently from the product with W~, no more.
namespace fbi::ops {

/// Whether `linear` forms the products of this slot so, for `tokens` rows in fp32.
bool uses_sign_tables(const ParameterSlot& slot, at::ScalarType dtype, std::int64_t tokens);

/// x W~ᵀ, [T, I] -> [T, O], contiguous fp32 on the CPU.
at::Tensor multiply_signs(const ParameterSlot& slot, const at::Tensor& x);
/// dY W~, [T, O] -> [T, I].
at::Tensor multiply_signs_transposed(const ParameterSlot& slot, const at::Tensor& dy);

/// Whether `linear` forms x W~ᵀ of this slot from 8-bit floats.
bool uses_fp8_signs(const ParameterSlot& slot);
/// x W~ᵀ, [T, I] -> [T, O] in the dtype of x: alpha·x is rounded, beta's part is not.
at::Tensor multiply_signs_fp8(const ParameterSlot& slot, const at::Tensor& x);

}  // namespace fbi::ops
