#include "fbi/ops/binarize.h"

#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/sign.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "fbi/core/error.h"

namespace fbi::ops {
namespace {

void check_latent(const at::Tensor& latent) {
  if (!latent.defined() || latent.dim() != 2 || latent.numel() == 0)
    throw UsageError(concat("binarize: expected a latent weight [out, in], found ",
                            latent.defined() ? concat(latent.sizes()) : "an undefined tensor"));
  if (latent.scalar_type() != at::kFloat && latent.scalar_type() != at::kDouble)
    throw UsageError(concat(
        "binarize: latent weights are kept in Float (or Double), found ", latent.scalar_type(),
        "; keep the module in Float and cast activations for reduced precision"));
}

void check_scale(const char* name, const at::Tensor& scale, const at::Tensor& latent) {
  const std::int64_t rows = latent.size(0), columns = latent.size(1);
  if (!scale.defined()) throw UsageError(concat("binarize: ", name, " is undefined"));
  const at::IntArrayRef shape = scale.sizes();
  if (shape != at::IntArrayRef{1, columns} && shape != at::IntArrayRef{rows, 1} && !shape.empty())
    throw UsageError(concat("binarize: ", name, " of a weight [", rows, ", ", columns,
                            "] must be [1, ", columns, "] (column), [", rows,
                            ", 1] (row) or [] (single), found ", shape));
  if (scale.scalar_type() != latent.scalar_type())
    throw UsageError(concat("binarize: ", name, " must be ", latent.scalar_type(),
                            " like the latent weight, found ", scale.scalar_type()));
}

/// Sums the gradient of W~ over the dimensions along which a scale of `shape` was broadcast.
at::Tensor sum_broadcast(const at::Tensor& grad, at::IntArrayRef shape) {
  if (shape.empty()) return at::sum(grad);
  std::vector<std::int64_t> broadcast;
  for (std::int64_t d = 0; d < 2; ++d)
    if (shape[d] != grad.size(d)) broadcast.push_back(d);
  return broadcast.empty() ? grad : at::sum(grad, broadcast, /*keepdim=*/true);
}

struct Binarize : torch::autograd::Function<Binarize> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& latent,
                            const at::Tensor& alpha, const at::Tensor& beta) {
    context->save_for_backward({latent, alpha});
    return at::sign(latent).mul_(alpha).add_(beta);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &latent = saved[0], &alpha = saved[1], &grad = grads[0];
    torch::autograd::variable_list result(3);
    if (context->needs_input_grad(0)) result[0] = grad * alpha;
    if (context->needs_input_grad(1))
      result[1] = sum_broadcast(grad * at::sign(latent), alpha.sizes());
    if (context->needs_input_grad(2)) result[2] = sum_broadcast(grad, alpha.sizes());
    return result;
  }
};

}  // namespace

at::Tensor binarize(const at::Tensor& latent, const at::Tensor& alpha, const at::Tensor& beta) {
  check_latent(latent);
  check_scale("alpha", alpha, latent);
  if (beta.defined()) check_scale("beta", beta, latent);
  if (beta.defined() && alpha.sizes() != beta.sizes())
    throw UsageError(concat("binarize: alpha and beta must have one shape, found ", alpha.sizes(),
                            " and ", beta.sizes()));
  return Binarize::apply(latent, alpha, beta.defined() ? beta : at::zeros_like(alpha.detach()));
}

Scales initial_scales(const at::Tensor& weight, ScalePattern pattern, bool shift) {
  check_latent(weight);
  const at::Tensor values = weight.detach();
  const auto mean = [&](const at::Tensor& x) {
    if (pattern == ScalePattern::kSingle) return x.mean();
    return x.mean(pattern == ScalePattern::kColumn ? 0 : 1, /*keepdim=*/true);
  };
  if (!shift) return {mean(values.abs()), at::Tensor()};
  const at::Tensor beta = mean(values);
  return {mean((values - beta).abs()), beta};
}

}  // namespace fbi::ops
