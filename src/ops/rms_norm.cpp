#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/custom_function.h>

#include "fbi/ops/slot_ops.h"

namespace fbi::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// With n = x·r, r = 1/sqrt(mean(x²)+eps) and g = dY·w: dx = r (g - n·mean(g·n)), dw = Σ_t dY·n.
struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, ParameterSlot* slot, double eps) {
    const at::Tensor input = x.to(at::kFloat);
    const at::Tensor inverse_rms = input.square().mean(-1, /*keepdim=*/true).add_(eps).rsqrt_();
    ctx->save_for_backward({input, inverse_rms});
    ctx->saved_data["slot"] = reinterpret_cast<std::int64_t>(slot);  // outlives the graph by contract
    return (input * inverse_rms).mul_(slot->value);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto& slot = *reinterpret_cast<ParameterSlot*>(ctx->saved_data["slot"].toInt());
    const auto saved = ctx->get_saved_variables();
    const at::Tensor& inverse_rms = saved[1];
    const at::Tensor normalised = saved[0] * inverse_rms;
    const at::Tensor dy = grads[0].to(at::kFloat);
    if (slot.grad.defined()) slot.grad.add_((dy * normalised).reshape({-1, dy.size(-1)}).sum(0));
    const at::Tensor g = dy * slot.value;
    const at::Tensor mean = (g * normalised).mean(-1, /*keepdim=*/true);
    return {(g - normalised * mean).mul_(inverse_rms), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, ParameterSlot& slot, double eps) {
  return RmsNorm::apply(x, &slot, eps);
}

}  // namespace fbi::ops
