#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include "fbi/core/error.h"
#include "fbi/kernels/binary_matrix.h"
#include "fbi/ops/matrix_product.h"
#include "fbi/ops/parallel.h"
#include "fbi/ops/scale_strides.h"
#include "fbi/ops/slot_ops.h"
#include "ops/gpu_kernels.h"
#include "ops/sign_products.h"

namespace fbi::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor unpacked(const ParameterSlot& slot, at::ScalarType dtype) {
  const at::ScalarType rounded = slot.rounding != at::kFloat ? slot.rounding : dtype;
  if (slot.bits.is_cuda()) return gpu::effective_weight(slot, rounded).to(dtype);
  const bool bf16 = rounded == at::kBFloat16;
  at::Tensor out = at::empty(slot.shape, slot.bits.options().dtype(bf16 ? at::kBFloat16 : at::kFloat));
  const kernels::MatrixShape shape{slot.rows(), slot.columns()};
  const auto* bits = slot.bits.const_data_ptr<std::uint8_t>();
  const auto* alpha = slot.alpha.const_data_ptr<float>();
  const auto* beta = slot.beta.const_data_ptr<float>();
  if (bf16) {
    kernels::effective_weight_bf16(bits, alpha, beta, scale_strides(slot), shape,
                                   static_cast<std::uint16_t*>(out.data_ptr()), torch_parallel_for());
  } else {
    kernels::effective_weight(bits, alpha, beta, scale_strides(slot), shape, out.data_ptr<float>(),
                              torch_parallel_for());
  }
  return out.to(rounded);
}

at::Tensor as_matrix(const at::Tensor& x) { return x.reshape({-1, x.size(-1)}); }

std::vector<std::int64_t> with_last(const at::Tensor& x, std::int64_t last) {
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = last;
  return shape;
}

/// x W~ᵀ
at::Tensor product(const at::Tensor& x, const ParameterSlot& slot) {
  if (uses_sign_tables(slot, x.scalar_type(), x.size(0))) return multiply_signs(slot, x.contiguous());
  return matrix_product(x, working_weight(slot, x.scalar_type()).t());
}

/// dY W~
at::Tensor product_transposed(const at::Tensor& dy, const ParameterSlot& slot) {
  if (uses_sign_tables(slot, dy.scalar_type(), dy.size(0))) return multiply_signs_transposed(slot, dy.contiguous());
  return matrix_product(dy, working_weight(slot, dy.scalar_type()));
}

struct SlotLinear : torch::autograd::Function<SlotLinear> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, ParameterSlot* slot,
                            at::ScalarType dtype) {
    const at::Tensor input = as_matrix(x).to(dtype);
    ctx->save_for_backward({input});
    ctx->saved_data["slot"] = reinterpret_cast<std::int64_t>(slot);  // outlives the graph by contract
    return product(input, *slot).view(with_last(x, slot->rows()));
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto& slot = *reinterpret_cast<ParameterSlot*>(ctx->saved_data["slot"].toInt());
    const at::Tensor input = ctx->get_saved_variables()[0];
    const at::Tensor dy = as_matrix(grads[0]);
    if (slot.grad.defined()) accumulate_outer(slot.grad, dy, input);
    return {product_transposed(dy, slot).view(with_last(grads[0], slot.columns())), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor working_weight(const ParameterSlot& slot, at::ScalarType dtype) {
  return (slot.kind == SlotKind::kPacked ? unpacked(slot, dtype) : slot.value).to(dtype);
}

at::Tensor linear(const at::Tensor& x, ParameterSlot& slot, at::ScalarType dtype) {
  if (x.size(-1) != slot.columns())
    throw UsageError(concat(slot.name, ": expected inputs of width ", slot.columns(), ", found ", x.size(-1)));
  return SlotLinear::apply(x, &slot, dtype);
}

void accumulate_outer(at::Tensor& target, const at::Tensor& a, const at::Tensor& b) {
  if (target.is_cuda()) return gpu::accumulate_outer(target, a, b);
  // A bf16 product would round the sum of each micro-step to 8 bits; on the CPU fp32 is also the faster product.
  target.addmm_(a.to(at::kFloat).t(), b.to(at::kFloat));
}

}  // namespace fbi::ops
