#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "fbi/ops/slot_ops.h"
#include "ops/slot_products.h"

/// Linear layers whose input backward makes again from what it is made of, which the graph keeps
/// anyway.
namespace fbi::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor as_input(at::Tensor rows, at::ScalarType dtype) {
  return as_matrix(rows).to(dtype);
}

struct NormedLinears : torch::autograd::Function<NormedLinears> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, ParameterSlot* norm,
                               double eps, const std::vector<ParameterSlot*>& slots,
                               at::ScalarType dtype) {
    const at::Tensor kept = x.to(at::kFloat).contiguous();
    ctx->save_for_backward({kept});
    ctx->saved_data["norm"] = addresses_of({norm});
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["slots"] = addresses_of(slots);
    ctx->saved_data["dtype"] = dtype;
    const NormedRows normed = normed_rows(kept, *norm, eps, dtype);
    return slot_products(as_matrix(normed.rows), x.sizes(), slots);
  }

  /// Frees what it no longer needs, `grads` too, before the norm's part begins.
  static variable_list backward(AutogradContext* ctx, variable_list& grads) {
    auto* norm = slots_at(ctx->saved_data["norm"].toIntVector()).front();
    const at::Tensor x = ctx->get_saved_variables()[0];
    NormedRows normed = normed_rows(x, *norm, ctx->saved_data["eps"].toDouble(),
                                    ctx->saved_data["dtype"].toScalarType());
    const at::Tensor dnormed =
        slot_products_backward(as_matrix(normed.rows), grads,
                               slots_at(ctx->saved_data["slots"].toIntVector()), at::kFloat);
    normed.rows.reset();
    grads.clear();
    const at::Tensor dx = normed_rows_backward(x, *norm, normed.inverse_rms, dnormed);
    return {dx, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

struct SiluProductLinear : torch::autograd::Function<SiluProductLinear> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate, const at::Tensor& up,
                            ParameterSlot* slot, at::ScalarType dtype) {
    ctx->save_for_backward({gate, up});
    ctx->saved_data["slot"] = addresses_of({slot});
    ctx->saved_data["dtype"] = dtype;
    return slot_products(as_input(silu_product_rows(gate, up), dtype), gate.sizes(), {slot})[0];
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &gate = saved[0], &up = saved[1];
    at::Tensor input =
        as_input(silu_product_rows(gate, up), ctx->saved_data["dtype"].toScalarType());
    const at::Tensor dproduct = slot_products_backward(
        input, grads, slots_at(ctx->saved_data["slot"].toIntVector()), gate.scalar_type());
    input.reset();
    variable_list out = silu_product_rows_backward(dproduct, gate, up);
    out.resize(4);
    return out;
  }
};

}  // namespace

std::vector<at::Tensor> normed_linears(const at::Tensor& x, ParameterSlot& norm, double eps,
                                       const std::vector<ParameterSlot*>& slots,
                                       at::ScalarType dtype) {
  if (!at::GradMode::is_enabled()) {
    // Products in 8 bits round their inputs once: from fp32.
    const bool fp8 = slots.front()->value_scales.defined();
    const NormedRows normed =
        normed_rows(x.to(at::kFloat).contiguous(), norm, eps, fp8 ? at::kFloat : dtype);
    return linears(normed.rows, slots, dtype);
  }
  return NormedLinears::apply(x, &norm, eps, slots, dtype);
}

at::Tensor silu_product_linear(at::Tensor gate, at::Tensor up, ParameterSlot& slot,
                               at::ScalarType dtype) {
  if (at::GradMode::is_enabled())
    return SiluProductLinear::apply(gate.contiguous(), up.contiguous(), &slot, dtype);
  const at::Tensor product = silu_product(gate, up);
  gate.reset();
  up.reset();
  return linear(product, slot, dtype);
}

}  // namespace fbi::ops
