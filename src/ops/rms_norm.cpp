#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "fbi/kernels/layer.h"
#include "fbi/ops/parallel.h"
#include "fbi/ops/slot_ops.h"
#include "ops/gpu_kernels.h"
#include "ops/slot_products.h"

namespace fbi::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

kernels::RmsNormInput kernel_input(const at::Tensor& x, const ParameterSlot& slot) {
  return {x.const_data_ptr<float>(), slot.value.const_data_ptr<float>(), x.numel() / x.size(-1),
          x.size(-1)};
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, ParameterSlot* slot,
                            double eps) {
    const at::Tensor input = x.to(at::kFloat).contiguous();
    const NormedRows normed = normed_rows(input, *slot, eps, at::kFloat);
    ctx->save_for_backward({input, normed.inverse_rms});
    ctx->saved_data["slot"] = addresses_of({slot});
    return normed.rows;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto* slot = slots_at(ctx->saved_data["slot"].toIntVector()).front();
    const auto saved = ctx->get_saved_variables();
    return {normed_rows_backward(saved[0], *slot, saved[1], grads[0]), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

NormedRows normed_rows(const at::Tensor& x, const ParameterSlot& slot, double eps,
                       at::ScalarType dtype) {
  NormedRows out;
  out.inverse_rms = at::empty(x.sizes().slice(0, x.dim() - 1), x.options());
  if (x.is_cuda()) {
    out.rows = gpu::rms_norm(x, slot.value, eps, dtype, out.inverse_rms);
    return out;
  }
  out.rows = at::empty_like(x);
  kernels::rms_norm(kernel_input(x, slot), eps, out.rows.data_ptr<float>(),
                    out.inverse_rms.data_ptr<float>(), torch_parallel_for());
  out.rows = out.rows.to(dtype);
  return out;
}

/// With n = x·r, r = 1/sqrt(mean(x²)+eps) and g = dY·w: dx = r (g - n·mean(g·n)), dw = Σ_t dY·n.
at::Tensor normed_rows_backward(const at::Tensor& x, ParameterSlot& slot,
                                const at::Tensor& inverse_rms, const at::Tensor& dout) {
  const at::Tensor dy = dout.to(at::kFloat).contiguous();
  if (dy.is_cuda()) return gpu::rms_norm_backward(x, slot.value, inverse_rms, dy, slot.grad);
  at::Tensor dx = at::empty_like(x);
  kernels::rms_norm_backward(kernel_input(x, slot), inverse_rms.const_data_ptr<float>(),
                             dy.const_data_ptr<float>(), dx.data_ptr<float>(),
                             slot.grad.defined() ? slot.grad.data_ptr<float>() : nullptr,
                             torch_parallel_for());
  return dx;
}

at::Tensor rms_norm(const at::Tensor& x, ParameterSlot& slot, double eps) {
  return RmsNorm::apply(x, &slot, eps);
}

}  // namespace fbi::ops
