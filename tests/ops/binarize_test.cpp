#include "fbi/ops/binarize.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "fbi/core/error.h"
#include "support/expect_error.h"

namespace fbi::ops {
namespace {

at::Tensor leaf(const at::Tensor& value) {
  return value.detach().clone().requires_grad_(true);
}

TEST(Binarize, SignOfZeroIsZeroWhicheverItsSign) {
  const at::Tensor latent = at::tensor({0.3f, -0.0f, -7.0f, 0.0f}).reshape({2, 2});
  const at::Tensor alpha = at::tensor({2.0f, 3.0f}).reshape({1, 2});
  const at::Tensor beta = at::tensor({0.5f, -0.25f}).reshape({1, 2});
  const at::Tensor expected = at::tensor({2.5f, -0.25f, -1.5f, -0.25f}).reshape({2, 2});
  EXPECT_TRUE(binarize(latent, alpha, beta).equal(expected));  // exact: small powers of two
}

TEST(Binarize, StraightThroughGradientIgnoresSizeAndZeros) {
  const at::Tensor latent = leaf(at::tensor({0.0f, -2.5f, 1e-3f, 40.0f}).reshape({2, 2}));
  const at::Tensor alpha = at::tensor({2.0f, 3.0f}).reshape({1, 2});
  const at::Tensor upstream = at::tensor({1.0f, 2.0f, 3.0f, 4.0f}).reshape({2, 2});
  binarize(latent, alpha, at::zeros({1, 2})).backward(upstream);
  EXPECT_TRUE(latent.grad().equal(upstream * alpha));
}

TEST(Binarize, AnUndefinedShiftIsZero) {
  const at::Tensor latent = leaf(at::tensor({0.5f, -2.5f, 0.0f, 4.0f}).reshape({2, 2}));
  const at::Tensor alpha = leaf(at::tensor({2.0f, 3.0f}).reshape({1, 2}));
  const at::Tensor effective = binarize(latent, alpha, at::Tensor());
  EXPECT_TRUE(effective.equal(at::tensor({2.0f, -3.0f, 0.0f, 3.0f}).reshape({2, 2})));
  effective.sum().backward();
  EXPECT_TRUE(alpha.grad().equal(at::tensor({1.0f, 0.0f}).reshape({1, 2})));
  const Scales scales = initial_scales(latent, ScalePattern::kColumn, /*shift=*/false);
  EXPECT_FALSE(scales.beta.defined());
  EXPECT_TRUE(scales.alpha.equal(at::tensor({0.25f, 3.25f}).reshape({1, 2})));
}

/// alpha and beta enter smoothly: their gradients must equal central differences of L = Σ c · W~².
class BinarizeScaleGradient : public ::testing::TestWithParam<std::vector<std::int64_t>> {};

TEST_P(BinarizeScaleGradient, EqualsFiniteDifferences) {
  const at::TensorOptions options = at::TensorOptions(at::kDouble);
  at::Tensor latent = at::randn({5, 3}, options);
  latent[1][2] = 0.0;
  latent = leaf(latent);
  const at::Tensor weights = at::rand({5, 3}, options);
  const at::Tensor alpha = leaf(at::rand(GetParam(), options) + 0.5);
  const at::Tensor beta = leaf(at::randn(GetParam(), options));
  const auto loss = [&](const at::Tensor& a, const at::Tensor& b) {
    return (weights * binarize(latent, a, b).square()).sum();
  };
  loss(alpha, beta).backward();
  ASSERT_EQ(alpha.grad().sizes(), alpha.sizes());
  ASSERT_EQ(beta.grad().sizes(), beta.sizes());
  for (std::int64_t i = 0; i < alpha.numel(); ++i) {
    at::Tensor direction = at::zeros_like(alpha.detach());
    // L is quadratic in alpha and beta, so a central difference has no truncation error and the
    // step may be large.
    direction.view({-1})[i] = 0.25;
    const at::Tensor a = alpha.detach(), b = beta.detach();
    const double by_alpha = (loss(a + direction, b) - loss(a - direction, b)).item<double>() / 0.5;
    const double by_beta = (loss(a, b + direction) - loss(a, b - direction)).item<double>() / 0.5;
    EXPECT_NEAR(alpha.grad().reshape({-1})[i].item<double>(), by_alpha, 1e-12);
    EXPECT_NEAR(beta.grad().reshape({-1})[i].item<double>(), by_beta, 1e-12);
  }
  const at::Tensor upstream = 2.0 * weights * binarize(latent, alpha, beta).detach();
  EXPECT_TRUE(latent.grad().allclose(upstream * alpha.detach(), 1e-14, 1e-14));
}

INSTANTIATE_TEST_SUITE_P(Patterns, BinarizeScaleGradient,
                         ::testing::Values(std::vector<std::int64_t>{1, 3},
                                           std::vector<std::int64_t>{5, 1},
                                           std::vector<std::int64_t>{}));

TEST(Binarize, DegenerateShapesKeepTheShapeOfTheScales) {
  const at::Tensor latent = leaf(at::tensor({1.0f, -1.0f, 2.0f}).reshape({3, 1}));
  const at::Tensor alpha = leaf(at::ones({3, 1})), beta = leaf(at::zeros({3, 1}));
  binarize(latent, alpha, beta).backward(at::ones({3, 1}));
  EXPECT_TRUE(alpha.grad().equal(at::tensor({1.0f, -1.0f, 1.0f}).reshape({3, 1})));
  EXPECT_TRUE(beta.grad().equal(at::ones({3, 1})));
}

TEST(Binarize, ComputesOnlyTheGradientsThatAreNeeded) {
  const at::Tensor latent = at::randn({2, 3}), alpha = leaf(at::ones({1, 3}));
  binarize(latent, alpha, at::zeros({1, 3})).sum().backward();
  EXPECT_TRUE(alpha.grad().equal(latent.sign().sum(0, true)));
  EXPECT_FALSE(latent.grad().defined());
}

TEST(Binarize, AnUpdateBetweenForwardAndBackwardIsAnError) {
  const at::Tensor latent = leaf(at::randn({2, 3})), scale = leaf(at::ones({1, 3}));
  const at::Tensor loss = binarize(latent, scale, scale).sum();
  latent.detach().mul_(-1);
  EXPECT_THROW(loss.backward(), c10::Error);
}

void expect_refused(const at::Tensor& latent, const at::Tensor& alpha, const at::Tensor& beta,
                    const std::string& message) {
  test::expect_error<UsageError>([&] { binarize(latent, alpha, beta); }, message);
}

TEST(Binarize, RefusesWrongShapesAndTypes) {
  const at::Tensor latent = at::zeros({4, 3}), column = at::zeros({1, 3});
  expect_refused(at::zeros({3}), column, column, "expected a latent weight [out, in], found [3]");
  expect_refused(at::zeros({0, 3}), column, column, "found [0, 3]");
  expect_refused(at::Tensor(), column, column, "an undefined tensor");
  expect_refused(latent.to(at::kBFloat16), column, column, "found BFloat16");
  expect_refused(latent, at::zeros({3}), column,
                 "alpha of a weight [4, 3] must be [1, 3] (column), [4, 1] (row) or [] (single), "
                 "found [3]");
  expect_refused(latent, column, at::zeros({1, 4}), "beta of a weight [4, 3]");
  expect_refused(latent, at::Tensor(), column, "alpha is undefined");
  expect_refused(latent, column, at::zeros({4, 1}),
                 "alpha and beta must have one shape, found [1, 3] and [4, 1]");
  expect_refused(latent, column.to(at::kDouble), column,
                 "alpha must be Float like the latent weight, found Double");
}

TEST(InitialScales, AreMeanAndMeanAbsoluteDeviation) {
  const at::Tensor weight = at::tensor({1.0f, 2.0f, 3.0f, 6.0f}).reshape({2, 2});
  const Scales column = initial_scales(weight, ScalePattern::kColumn);
  EXPECT_TRUE(column.beta.equal(at::tensor({2.0f, 4.0f}).reshape({1, 2})));
  EXPECT_TRUE(column.alpha.equal(at::tensor({1.0f, 2.0f}).reshape({1, 2})));
  const Scales row = initial_scales(weight, ScalePattern::kRow);
  EXPECT_TRUE(row.beta.equal(at::tensor({1.5f, 4.5f}).reshape({2, 1})));
  EXPECT_TRUE(row.alpha.equal(at::tensor({0.5f, 1.5f}).reshape({2, 1})));
  const Scales single = initial_scales(leaf(weight), ScalePattern::kSingle);
  EXPECT_EQ(single.beta.dim(), 0);
  EXPECT_EQ(single.beta.item<float>(), 3.0f);
  EXPECT_EQ(single.alpha.item<float>(), 1.5f);
  EXPECT_FALSE(single.alpha.requires_grad());
}

}  // namespace
}  // namespace fbi::ops
