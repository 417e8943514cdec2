#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include "fbi/core/error.h"
#include "fbi/kernels/binary_matrix.h"
#include "fbi/ops/fp8.h"
#include "fbi/ops/matrix_product.h"
#include "fbi/ops/parallel.h"
#include "fbi/ops/scale_strides.h"
#include "fbi/ops/slot_ops.h"
#include "ops/gpu_kernels.h"
#include "ops/sign_products.h"
#include "ops/slot_products.h"

namespace fbi::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// alpha·s + beta, formed in fp32 and rounded once to the type of `out`: fp32 or bf16, on a GPU
/// also fp16.
void unpack(const ParameterSlot& slot, const at::Tensor& out) {
  if (out.is_cuda()) return gpu::effective_weight(slot, out);
  const kernels::MatrixShape shape{slot.rows(), slot.columns()};
  const auto* bits = slot.bits.const_data_ptr<std::uint8_t>();
  const auto* alpha = slot.alpha.const_data_ptr<float>();
  const auto* beta = slot.beta.const_data_ptr<float>();
  if (out.scalar_type() == at::kBFloat16) {
    kernels::effective_weight_bf16(bits, alpha, beta, scale_strides(slot), shape,
                                   static_cast<std::uint16_t*>(out.data_ptr()),
                                   torch_parallel_for());
  } else {
    kernels::effective_weight(bits, alpha, beta, scale_strides(slot), shape, out.data_ptr<float>(),
                              torch_parallel_for());
  }
}

at::Tensor unpacked(const ParameterSlot& slot, at::ScalarType dtype) {
  const at::ScalarType rounded = slot.rounding != at::kFloat ? slot.rounding : dtype;
  const bool written = slot.bits.is_cuda() || rounded == at::kBFloat16;
  const at::Tensor out =
      at::empty(slot.shape, slot.bits.options().dtype(written ? rounded : at::kFloat));
  unpack(slot, out);
  return out.to(rounded);
}

/// working_weight, and the slot's own copy of it where it keeps one.
at::Tensor multiplied_weight(ParameterSlot& slot, at::ScalarType dtype) {
  if (!slot.unpacked.defined() || slot.unpacked.scalar_type() != dtype ||
      slot.rounding != at::kFloat)
    return working_weight(slot, dtype);
  if (!slot.unpacked_is_current) unpack(slot, slot.unpacked);
  slot.unpacked_is_current = true;
  return slot.unpacked;
}

bool is_fp8(const ParameterSlot& slot) {
  return slot.value_scales.defined();
}

std::vector<std::int64_t> with_last(at::IntArrayRef sizes, std::int64_t last) {
  std::vector<std::int64_t> shape = sizes.vec();
  shape.back() = last;
  return shape;
}

/// x W~ᵀ
at::Tensor product(const at::Tensor& x, ParameterSlot& slot) {
  if (uses_sign_tables(slot, x.scalar_type(), x.size(0)))
    return multiply_signs(slot, x.contiguous());
  if (uses_fp8_signs(slot)) return multiply_signs_fp8(slot, x);
  return matrix_product(x, multiplied_weight(slot, x.scalar_type()).t());
}

/// dY W~ in `dtype`, rounded to that of dY before, unless a GPU gives fp32 at once.
at::Tensor product_transposed(const at::Tensor& dy, ParameterSlot& slot, at::ScalarType dtype) {
  if (dy.is_cuda() && dy.scalar_type() != dtype)
    return gpu::product(dy, multiplied_weight(slot, dy.scalar_type()), dtype);
  if (uses_sign_tables(slot, dy.scalar_type(), dy.size(0)))
    return multiply_signs_transposed(slot, dy.contiguous()).to(dtype);
  return matrix_product(dy, multiplied_weight(slot, dy.scalar_type())).to(dtype);
}

/// sum += dY W~, formed in the dtype of dY.
void add_product_transposed(at::Tensor& sum, const at::Tensor& dy, ParameterSlot& slot) {
  if (sum.is_cuda()) return gpu::add_product(sum, dy, multiplied_weight(slot, dy.scalar_type()));
  sum.add_(product_transposed(dy, slot, dy.scalar_type()));
}

/// slot.grad += dYᵀ input, where it has a gradient or makes one on demand.
void add_to_gradient(ParameterSlot& slot, const at::Tensor& dy, const at::Tensor& input) {
  if (slot.grad_on_demand && !slot.grad.defined()) {
    if (dy.is_cuda()) {
      slot.grad = gpu::product(dy.t(), input, at::kFloat);  // instead of zeros that it is added to
      return;
    }
    slot.grad = at::zeros(slot.shape, dy.options().dtype(at::kFloat));
  }
  if (slot.grad.defined()) accumulate_outer(slot.grad, dy, input);
}

struct SlotLinears : torch::autograd::Function<SlotLinears> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x,
                               const std::vector<ParameterSlot*>& slots, at::ScalarType dtype) {
    const at::Tensor input = as_matrix(x).to(dtype);
    ctx->save_for_backward({input});
    ctx->saved_data["dtype"] = x.scalar_type();
    ctx->saved_data["slots"] = addresses_of(slots);
    return slot_products(input, x.sizes(), slots);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::Tensor dx = slot_products_backward(ctx->get_saved_variables()[0], grads,
                                                 slots_at(ctx->saved_data["slots"].toIntVector()),
                                                 ctx->saved_data["dtype"].toScalarType());
    return {dx, at::Tensor(), at::Tensor()};
  }
};

/// Inputs are quantized once for all slots.
variable_list fp8_linears(const at::Tensor& x, const std::vector<ParameterSlot*>& slots,
                          at::ScalarType dtype) {
  const Fp8Rows input = quantize_rows(as_matrix(x));
  variable_list out;
  for (const auto* slot : slots)
    out.push_back(fp8_product(input, {slot->value, slot->value_scales}, dtype, Fp8Sums::kFast)
                      .view(with_last(x.sizes(), slot->rows())));
  return out;
}

}  // namespace

at::Tensor as_matrix(const at::Tensor& x) {
  return x.reshape({-1, x.size(-1)});
}

std::vector<std::int64_t> addresses_of(const std::vector<ParameterSlot*>& slots) {
  std::vector<std::int64_t> addresses;
  for (auto* slot : slots) addresses.push_back(reinterpret_cast<std::int64_t>(slot));
  return addresses;
}

std::vector<ParameterSlot*> slots_at(const std::vector<std::int64_t>& addresses) {
  std::vector<ParameterSlot*> slots;
  for (const auto address : addresses) slots.push_back(reinterpret_cast<ParameterSlot*>(address));
  return slots;
}

std::vector<at::Tensor> slot_products(const at::Tensor& input, at::IntArrayRef shape,
                                      const std::vector<ParameterSlot*>& slots) {
  variable_list out;
  for (auto* slot : slots) {
    if (is_fp8(*slot))
      throw UsageError(concat(slot->name, " is stored as fp8: it has no gradient"));
    out.push_back(product(input, *slot).view(with_last(shape, slot->rows())));
  }
  return out;
}

at::Tensor slot_products_backward(const at::Tensor& input, const std::vector<at::Tensor>& grads,
                                  const std::vector<ParameterSlot*>& slots, at::ScalarType dtype) {
  at::Tensor dx;
  for (std::size_t i = slots.size(); i-- > 0;) {
    auto& slot = *slots[i];
    const at::Tensor dy = as_matrix(grads[i]);
    add_to_gradient(slot, dy, input);
    if (dx.defined())
      add_product_transposed(dx, dy, slot);
    else
      dx = product_transposed(dy, slot, dtype);
  }
  return dx.view(with_last(grads[0].sizes(), input.size(1)));
}

at::Tensor working_weight(const ParameterSlot& slot, at::ScalarType dtype) {
  if (is_fp8(slot)) return slot.value.to(at::kFloat).mul_(slot.value_scales.unsqueeze(1)).to(dtype);
  return (slot.kind == SlotKind::kPacked ? unpacked(slot, dtype) : slot.value).to(dtype);
}

void keep_unpacked(ParameterSlot& slot, at::ScalarType dtype) {
  if (slot.kind != SlotKind::kPacked || (dtype != at::kFloat && dtype != at::kBFloat16))
    throw UsageError(
        concat(slot.name, ": a copy in ", dtype, " is for binarized weights, in fp32 or bf16"));
  slot.unpacked = at::empty(slot.shape, slot.bits.options().dtype(dtype));
  slot.unpacked_is_current = false;
}

at::Tensor linear(const at::Tensor& x, ParameterSlot& slot, at::ScalarType dtype) {
  return linears(x, {&slot}, dtype).front();
}

std::vector<at::Tensor> linears(const at::Tensor& x, const std::vector<ParameterSlot*>& slots,
                                at::ScalarType dtype) {
  for (const auto* slot : slots) {
    if (x.size(-1) != slot->columns())
      throw UsageError(concat(slot->name, ": expected inputs of width ", slot->columns(),
                              ", found ", x.size(-1)));
  }
  if (is_fp8(*slots.front()) && !at::GradMode::is_enabled()) return fp8_linears(x, slots, dtype);
  return SlotLinears::apply(x, slots, dtype);
}

void accumulate_outer(at::Tensor& target, const at::Tensor& a, const at::Tensor& b) {
  if (target.is_cuda()) return gpu::add_product(target, a.t(), b);
  // A bf16 product would round the sum of each micro-step to 8 bits; on the CPU fp32 is also the
  // faster product.
  target.addmm_(a.to(at::kFloat).t(), b.to(at::kFloat));
}

}  // namespace fbi::ops
