#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "fbi/kernels/layer.h"
#include "fbi/ops/parallel.h"
#include "fbi/ops/slot_ops.h"
#include "ops/gpu_kernels.h"

namespace fbi::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

kernels::RmsNormInput kernel_input(const at::Tensor& x, const ParameterSlot& slot) {
  return {x.const_data_ptr<float>(), slot.value.const_data_ptr<float>(), x.numel() / x.size(-1),
          x.size(-1)};
}

/// With n = x·r, r = 1/sqrt(mean(x²)+eps) and g = dY·w: dx = r (g - n·mean(g·n)), dw = Σ_t dY·n.
struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, ParameterSlot* slot,
                            double eps) {
    const at::Tensor input = x.to(at::kFloat).contiguous();
    at::Tensor out,
        inverse_rms = at::empty(input.sizes().slice(0, input.dim() - 1), input.options());
    if (input.is_cuda()) {
      out = gpu::rms_norm(input, slot->value, eps, inverse_rms);
    } else {
      out = at::empty_like(input);
      kernels::rms_norm(kernel_input(input, *slot), eps, out.data_ptr<float>(),
                        inverse_rms.data_ptr<float>(), torch_parallel_for());
    }
    ctx->save_for_backward({input, inverse_rms});
    ctx->saved_data["slot"] =
        reinterpret_cast<std::int64_t>(slot);  // outlives the graph by contract
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto& slot = *reinterpret_cast<ParameterSlot*>(ctx->saved_data["slot"].toInt());
    const auto saved = ctx->get_saved_variables();
    const at::Tensor dout = grads[0].to(at::kFloat).contiguous();
    if (dout.is_cuda()) {
      return {gpu::rms_norm_backward(saved[0], slot.value, saved[1], dout, slot.grad), at::Tensor(),
              at::Tensor()};
    }
    at::Tensor dx = at::empty_like(saved[0]);
    kernels::rms_norm_backward(kernel_input(saved[0], slot), saved[1].const_data_ptr<float>(),
                               dout.const_data_ptr<float>(), dx.data_ptr<float>(),
                               slot.grad.defined() ? slot.grad.data_ptr<float>() : nullptr,
                               torch_parallel_for());
    return {dx, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, ParameterSlot& slot, double eps) {
  return RmsNorm::apply(x, &slot, eps);
}

}  // namespace fbi::ops
