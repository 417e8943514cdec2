#include "fbi/nn/fbi_linear.h"

#include <gtest/gtest.h>

#include <memory>
#include <sstream>
#include <vector>

#include <ATen/TensorOperators.h>
#include <torch/nn/modules/linear.h>
#include <torch/serialize.h>

#include "fbi/core/error.h"
#include "fbi/ops/binarize.h"
#include "support/expect_error.h"

namespace fbi::nn {
namespace {

using ops::ScalePattern;

TEST(FbiLinear, RegistersThePublishedNamesAndShapes) {
  struct Case {
    ScalePattern pattern;
    std::vector<std::int64_t> scale_shape;
  };
  for (const Case& c : {Case{ScalePattern::kColumn, {1, 3}}, Case{ScalePattern::kRow, {5, 1}},
                        Case{ScalePattern::kSingle, {}}}) {
    FbiLinear layer(FbiLinearOptions(3, 5).pattern(c.pattern));
    const auto parameters = layer->named_parameters();
    EXPECT_EQ(parameters.keys(), (std::vector<std::string>{"weight", "wscale", "wbias"}));
    EXPECT_EQ(parameters["weight"].sizes(), (at::IntArrayRef{5, 3}));
    EXPECT_EQ(parameters["wscale"].sizes(), at::IntArrayRef(c.scale_shape));
    EXPECT_EQ(parameters["wbias"].sizes(), at::IntArrayRef(c.scale_shape));
    for (const at::Tensor& parameter : layer->parameters()) EXPECT_TRUE(parameter.requires_grad());
  }
}

TEST(FbiLinear, StartsFromNormalWeightsAndTheirScales) {
  FbiLinear layer(256, 256);
  const double deviation = layer->weight.std().item<double>();
  // 65,536 samples: the standard error of the deviation is 0.02 / sqrt(2 · 65,536) = 6e-5; 5 of
  // them.
  EXPECT_NEAR(deviation, 0.02, 3e-4);
  const ops::Scales scales = ops::initial_scales(layer->weight, ScalePattern::kColumn);
  EXPECT_TRUE(layer->wscale.equal(scales.alpha));
  EXPECT_TRUE(layer->wbias.equal(scales.beta));
}

TEST(FbiLinear, ForwardIsAProductWithTheBinarizedWeight) {
  FbiLinear layer(FbiLinearOptions(3, 5).pattern(ScalePattern::kRow));
  const at::Tensor x = torch::randn({2, 4, 3});
  const at::Tensor effective = layer->wscale * layer->weight.sign() + layer->wbias;
  EXPECT_TRUE(layer->effective_weight().equal(effective));
  const at::Tensor y = layer->forward(x);
  EXPECT_EQ(y.sizes(), (at::IntArrayRef{2, 4, 5}));
  // Three fp32 products per output, rounded in another order at most.
  EXPECT_TRUE(y.allclose(x.matmul(effective.t()), 1e-6, 1e-8));
}

TEST(FbiLinear, GradientsAreTheRawGradientThroughTheScales) {
  FbiLinear layer(4, 6);
  const at::Tensor x = torch::randn({7, 4}), upstream = torch::randn({7, 6});
  layer->forward(x).backward(upstream);
  const at::Tensor raw = upstream.t().mm(x);
  const at::Tensor sign = layer->weight.detach().sign();
  // Sums of at most 7 · 6 fp32 products of size 1e0.
  EXPECT_TRUE(layer->weight.grad().allclose(raw * layer->wscale.detach(), 1e-5, 1e-7));
  EXPECT_TRUE(layer->wscale.grad().allclose((raw * sign).sum(0, true), 1e-5, 1e-5));
  EXPECT_TRUE(layer->wbias.grad().allclose(raw.sum(0, true), 1e-5, 1e-5));
}

TEST(FbiLinear, ReducedPrecisionInputsUseTheWeightRoundedOnce) {
  FbiLinear layer(8, 4);
  const at::Tensor x = torch::randn({3, 8}).to(at::kBFloat16);
  const at::Tensor y = layer->forward(x);
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(y.equal(x.matmul(layer->effective_weight().to(at::kBFloat16).t())));
  y.to(at::kFloat).sum().backward();
  EXPECT_EQ(layer->weight.grad().scalar_type(), at::kFloat);
}

TEST(FbiLinear, WithoutAShiftIsScaledSigns) {
  FbiLinear layer(FbiLinearOptions(5, 4).shift(false));
  EXPECT_EQ(layer->named_parameters().keys(), (std::vector<std::string>{"weight", "wscale"}));
  EXPECT_TRUE(layer->wscale.equal(layer->weight.abs().mean(0, true)));
  EXPECT_TRUE(layer->effective_weight().equal(layer->wscale * layer->weight.sign()));
  layer->forward(torch::randn({3, 5})).sum().backward();
  EXPECT_TRUE(layer->weight.grad().defined());
  std::ostringstream out;
  out << layer;
  EXPECT_NE(out.str().find("no shift"), std::string::npos);
}

TEST(FbiLinear, ASharedScaleHasTheSumOfTheGradients) {
  FbiLinear one(5, 4), other(5, 3), alone(5, 3);
  {
    torch::NoGradGuard no_grad;
    alone->weight.copy_(other->weight);
    alone->wbias.copy_(other->wbias);
    alone->wscale.copy_(one->wscale);
  }
  other->share_scale(*one);
  EXPECT_EQ(other->named_parameters().keys(), (std::vector<std::string>{"weight", "wbias"}));
  const at::Tensor x = torch::randn({2, 5});
  EXPECT_TRUE(other->forward(x).equal(alone->forward(x)));
  one->forward(x).sum().backward();
  const at::Tensor first = one->wscale.grad().clone();
  other->forward(x).sum().backward();
  alone->forward(x).sum().backward();
  EXPECT_TRUE(one->wscale.grad().allclose(first + alone->wscale.grad(), 1e-6, 1e-7));
  test::expect_error<UsageError>([&] { other->share_scale(*FbiLinear(6, 3)); }, "[1, 5]", "[1, 6]");
}

TEST(FbiLinear, ConvertsToDouble) {
  FbiLinear layer(3, 2);
  layer->to(at::kDouble);
  EXPECT_EQ(layer->forward(torch::ones({1, 3}, at::kDouble)).scalar_type(), at::kDouble);
}

TEST(FbiLinear, TakesOverADenseLayer) {
  torch::nn::Linear dense(torch::nn::LinearOptions(4, 3).bias(false));
  FbiLinear layer = FbiLinearImpl::from_linear(*dense, ScalePattern::kSingle);
  EXPECT_TRUE(layer->weight.equal(dense->weight));
  EXPECT_FALSE(layer->weight.is_alias_of(dense->weight));
  EXPECT_TRUE(layer->wbias.equal(dense->weight.mean()));
  EXPECT_EQ(layer->options.in_features(), 4);
  EXPECT_EQ(layer->options.out_features(), 3);
}

TEST(FbiLinear, RefusesADenseLayerWithBias) {
  torch::nn::Linear dense(4, 3);
  test::expect_error<UsageError>([&] { FbiLinearImpl::from_linear(*dense); }, "[3, 4]",
                                 "additive bias", "binarize_linear_layers");
}

TEST(FbiLinear, RefusesSizesAndInputsThatDoNotFit) {
  test::expect_error<UsageError>([] { FbiLinear layer(0, 3); }, "must be positive, found 0 and 3");
  FbiLinear layer(4, 3);
  test::expect_error<UsageError>(
      [&] {
        layer->forward(torch::zeros({2, 5}));
      },
      "expected inputs [..., 4], found [2, 5]");
  test::expect_error<UsageError>([&] { layer->forward(torch::zeros({})); }, "found []");
}

TEST(FbiLinear, SurvivesSaveAndLoadAndClone) {
  FbiLinear original(5, 4);
  std::stringstream stream;
  torch::save(original, stream);
  FbiLinear loaded(5, 4);
  torch::load(loaded, stream);
  const auto clone = std::dynamic_pointer_cast<FbiLinearImpl>(original->clone());
  ASSERT_NE(clone, nullptr);
  const at::Tensor x = torch::randn({2, 5});
  EXPECT_TRUE(loaded->forward(x).equal(original->forward(x)));
  EXPECT_TRUE(clone->forward(x).equal(original->forward(x)));
  EXPECT_FALSE(clone->weight.is_alias_of(original->weight));
}

TEST(FbiLinear, CountsFlipsAsChangesOfPositive) {
  FbiLinear layer(2, 2);
  torch::NoGradGuard no_grad;
  layer->weight.copy_(torch::tensor({{1.0f, -1.0f}, {0.0f, 2.0f}}));
  const at::Tensor before = layer->sign_snapshot();
  EXPECT_EQ(layer->count_flips(before), 0);
  // -1 -> 0 stays "not positive".
  layer->weight.copy_(torch::tensor({{-1.0f, 0.0f}, {1e-30f, 2.0f}}));
  EXPECT_EQ(layer->count_flips(before), 2);
  test::expect_error<UsageError>(
      [&] {
        layer->count_flips(torch::zeros({2, 2}));
      },
      "expected a sign_snapshot of shape [2, 2], found Float");
}

TEST(FbiLinear, PrintsItsPattern) {
  std::ostringstream out;
  out << FbiLinear(FbiLinearOptions(3, 5).pattern(ScalePattern::kRow));
  EXPECT_EQ(out.str(), "fbi::nn::FbiLinear(in_features=3, out_features=5, pattern=row)");
}

}  // namespace
}  // namespace fbi::nn
