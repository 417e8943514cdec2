#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "fbi/ops/parameter_slot.h"

/// The parts of which slot_ops.h makes differentiable operations; none of them records a graph.
namespace fbi::ops {

/// Slots as a graph keeps them: they outlive it by contract.
std::vector<std::int64_t> addresses_of(const std::vector<ParameterSlot*>& slots);
std::vector<ParameterSlot*> slots_at(const std::vector<std::int64_t>& addresses);

/// [..., I] -> [T, I]
at::Tensor as_matrix(const at::Tensor& x);

/// input W~ᵀ of every slot, [T, I] -> `shape` with O as last dimension.
std::vector<at::Tensor> slot_products(const at::Tensor& input, at::IntArrayRef shape,
                                      const std::vector<ParameterSlot*>& slots);
/// slot.grad += dYᵀ input of every slot; returns Σ dY W~ in `dtype`, from the last slot to the
/// first.
at::Tensor slot_products_backward(const at::Tensor& input, const std::vector<at::Tensor>& grads,
                                  const std::vector<ParameterSlot*>& slots, at::ScalarType dtype);

/// Of contiguous fp32 x, rounded to `dtype`; also 1 / sqrt(mean(x²) + eps) of every row.
struct NormedRows {
  at::Tensor rows, inverse_rms;
};
NormedRows normed_rows(const at::Tensor& x, const ParameterSlot& slot, double eps,
                       at::ScalarType dtype);
/// Adds to slot.grad and returns dx.
at::Tensor normed_rows_backward(const at::Tensor& x, ParameterSlot& slot,
                                const at::Tensor& inverse_rms, const at::Tensor& dout);

/// Of contiguous gate and up.
at::Tensor silu_product_rows(const at::Tensor& gate, const at::Tensor& up);
/// dgate and dup.
std::vector<at::Tensor> silu_product_rows_backward(const at::Tensor& dout, const at::Tensor& gate,
                                                   const at::Tensor& up);

}  // namespace fbi::ops
