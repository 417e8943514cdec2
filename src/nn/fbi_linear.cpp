#include "fbi/nn/fbi_linear.h"

#include <ostream>

#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/normal.h>
#include <torch/nn/modules/linear.h>

#include "fbi/core/error.h"
#include "fbi/ops/binarize.h"
#include "fbi/ops/scale_strides.h"

namespace fbi::nn {
namespace {

const char* to_string(ops::ScalePattern pattern) {
  switch (pattern) {
    case ops::ScalePattern::kRow:
      return "row";
    case ops::ScalePattern::kSingle:
      return "single";
    case ops::ScalePattern::kColumn:
      break;
  }
  return "column";
}

}  // namespace

FbiLinearImpl::FbiLinearImpl(const FbiLinearOptions& options_) : options(options_) {
  if (options.in_features() <= 0 || options.out_features() <= 0)
    throw UsageError(concat("FbiLinear: in_features and out_features must be positive, found ",
                            options.in_features(), " and ", options.out_features()));
  FbiLinearImpl::reset();  // qualified: virtual calls in a constructor reach this class only
}

std::shared_ptr<FbiLinearImpl> FbiLinearImpl::from_linear(const torch::nn::LinearImpl& linear,
                                                          ops::ScalePattern pattern) {
  if (linear.bias.defined())
    throw UsageError(concat("FbiLinear::from_linear: the layer [", linear.weight.size(0), ", ",
                            linear.weight.size(1),
                            "] has an additive bias, which FbiLinear has not; make it with "
                            "bias(false), or use binarize_linear_layers, which keeps the bias"));
  auto result = std::make_shared<FbiLinearImpl>(
      FbiLinearOptions(linear.weight.size(1), linear.weight.size(0)).pattern(pattern));
  torch::NoGradGuard no_grad;
  result->to(linear.weight.device(), linear.weight.scalar_type());
  result->weight.copy_(linear.weight);
  result->reset_scales();
  return result;
}

void FbiLinearImpl::reset() {
  weight = register_parameter("weight", at::empty({options.out_features(), options.in_features()}));
  const auto scales =
      ops::scale_shape(options.pattern(), {options.out_features(), options.in_features()});
  wscale = register_parameter("wscale", at::empty(scales));
  wbias = at::Tensor();
  if (options.shift()) wbias = register_parameter("wbias", at::empty(scales));
  reset_parameters();
}

void FbiLinearImpl::reset_parameters(double stddev) {
  torch::NoGradGuard no_grad;
  weight.normal_(0.0, stddev);
  reset_scales();
}

void FbiLinearImpl::reset_scales() {
  torch::NoGradGuard no_grad;
  const ops::Scales scales = ops::initial_scales(weight, options.pattern(), options.shift());
  wscale.copy_(scales.alpha);
  if (options.shift()) wbias.copy_(scales.beta);
}

void FbiLinearImpl::share_scale(const FbiLinearImpl& owner) {
  if (owner.wscale.sizes() != wscale.sizes())
    throw UsageError(concat("FbiLinear: expected a scale of shape ", wscale.sizes(),
                            " to be shared, found ", owner.wscale.sizes()));
  wscale = owner.wscale;
  if (parameters_.contains("wscale")) parameters_.erase("wscale");
}

void FbiLinearImpl::pretty_print(std::ostream& stream) const {
  stream << "fbi::nn::FbiLinear(in_features=" << options.in_features()
         << ", out_features=" << options.out_features()
         << ", pattern=" << to_string(options.pattern()) << (options.shift() ? ")" : ", no shift)");
}

at::Tensor FbiLinearImpl::forward(const at::Tensor& x) {
  if (x.dim() == 0 || x.size(-1) != options.in_features())
    throw UsageError(
        concat("FbiLinear: expected inputs [..., ", options.in_features(), "], found ", x.sizes()));
  const bool reduced = x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kHalf;
  const at::Tensor effective = effective_weight();
  return at::linear(x, reduced ? effective.to(x.scalar_type()) : effective);
}

at::Tensor FbiLinearImpl::effective_weight() const {
  return ops::binarize(weight, wscale, wbias);
}

at::Tensor FbiLinearImpl::sign_snapshot() const {
  return weight.detach() > 0;
}

std::int64_t FbiLinearImpl::count_flips(const at::Tensor& earlier) const {
  if (earlier.scalar_type() != at::kBool || earlier.sizes() != weight.sizes())
    throw UsageError(concat("FbiLinear: expected a sign_snapshot of shape ", weight.sizes(),
                            ", found ", earlier.scalar_type(), " ", earlier.sizes()));
  return sign_snapshot().ne(earlier).sum().item<std::int64_t>();
}

}  // namespace fbi::nn
