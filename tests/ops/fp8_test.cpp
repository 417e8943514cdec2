#include "fbi/ops/fp8.h"

#include <gtest/gtest.h>

#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include "fbi/core/error.h"
#include "fbi/ops/slot_ops.h"
#include "support/expect_error.h"

namespace fbi::ops {
namespace {

ParameterSlot dense_slot(std::int64_t outputs, std::int64_t inputs) {
  ParameterSlot slot;
  slot.name = "layer.weight";
  slot.shape = {outputs, inputs};
  slot.value = at::randn({outputs, inputs});
  return slot;
}

at::Tensor dequantized(const Fp8Rows& rows) {
  return rows.values.to(at::kDouble) * rows.scales.unsqueeze(1);
}

TEST(Fp8, RowsAreWithinHalfAStepOfTheirNumbers) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor x = (at::randn({7, 33}) * at::randn({7, 1}).exp()).to(dtype);
    const Fp8Rows rows = quantize_rows(x);
    EXPECT_EQ(rows.values.scalar_type(), at::kFloat8_e4m3fn);
    const at::Tensor values = x.to(at::kDouble), scales = rows.scales.to(at::kDouble).unsqueeze(1);
    EXPECT_TRUE((scales * 448).allclose(values.abs().amax(-1, true), 1e-6, 0));
    // 3 bits of mantissa: 2^-4 of the number; below 2^-6 steps of 2^-9.
    const at::Tensor bound = (values.abs() * 0x1p-4).maximum(scales * 0x1p-10) * (1 + 1e-6);
    EXPECT_TRUE((dequantized(rows) - values).abs().le(bound).all().item<bool>());
  }
}

TEST(Fp8, ExtremeRowsStayFinite) {
  const float least = std::numeric_limits<float>::denorm_min(),
              most = std::numeric_limits<float>::max();
  for (const float value : {0.0f, least, 1e-40f, most}) {
    const Fp8Rows rows = quantize_rows(at::full({2, 3}, value));
    EXPECT_TRUE(dequantized(rows).isfinite().all().item<bool>()) << value;
    EXPECT_TRUE(rows.scales.gt(0).all().item<bool>()) << value;
  }
}

/// alpha·x in fp32 is rounded as any row; x·beta is a sum of 33 numbers in fp32.
TEST(Fp8, RowsForSignsTakeScalesOfColumnsOnTheWay) {
  const at::Tensor alpha = at::randn({33}), beta = at::randn({33});
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor x = at::randn({7, 33}).to(dtype), wide = x.to(at::kFloat);
    const Fp8SignInputs found = quantize_for_signs(x, alpha, beta);
    const Fp8Rows expected = quantize_rows(wide * alpha);
    EXPECT_TRUE(found.rows.values.view(at::kByte).equal(expected.values.view(at::kByte)));
    EXPECT_TRUE(found.rows.scales.equal(expected.scales));
    EXPECT_TRUE(found.sums.allclose((wide * beta).sum(-1), 1e-5, 1e-5));
  }
}

TEST(Fp8, ProductsAreThoseOfTheRoundedNumbers) {
  const Fp8Rows a = quantize_rows(at::randn({5, 40})), b = quantize_rows(at::randn({9, 40}));
  const at::Tensor expected = dequantized(a).mm(dequantized(b).t());
  EXPECT_TRUE(
      fp8_product(a, b, at::kFloat, Fp8Sums::kFast).to(at::kDouble).allclose(expected, 1e-5, 1e-5));
  EXPECT_TRUE(fp8_product(a, b, at::kBFloat16, Fp8Sums::kFp32)
                  .to(at::kDouble)
                  .allclose(expected, 0x1p-8, 1e-5));
}

/// Two roundings to 3 bits, each within 2^-4: of sums of 64 products the error is some per cent of
/// their size.
TEST(Fp8, ALinearLayerTakesOneBytePerWeightAndStaysNear) {
  const at::NoGradGuard no_grad;
  ParameterSlot slot = dense_slot(24, 64), other = dense_slot(8, 64);
  const at::Tensor x = at::randn({2, 3, 64});
  const at::Tensor exact = linear(x, slot, at::kFloat);
  store_as_fp8(slot);
  store_as_fp8(other);
  EXPECT_EQ(slot.value.nbytes(), 24u * 64u);
  const at::Tensor found = linear(x, slot, at::kFloat);
  EXPECT_LT(((found - exact).norm() / exact.norm()).item<double>(), 0.06);
  EXPECT_TRUE(working_weight(slot, at::kDouble)
                  .allclose(dequantized({slot.value, slot.value_scales}), 1e-6, 0));

  const auto both = linears(x, {&slot, &other}, at::kFloat);
  EXPECT_TRUE(both[0].equal(found));
  EXPECT_TRUE(both[1].equal(linear(x, other, at::kFloat)));
}

TEST(Fp8, IsForModelsThatAreOnlyRun) {
  ParameterSlot trained = dense_slot(4, 4), packed = dense_slot(4, 4), run = dense_slot(4, 4);
  trained.grad = at::zeros({4, 4});
  packed.kind = SlotKind::kPacked;
  test::expect_error<UsageError>([&] { store_as_fp8(trained); }, "layer.weight",
                                 "without gradient");
  test::expect_error<UsageError>([&] { store_as_fp8(packed); }, "layer.weight", "full-precision");
  store_as_fp8(run);
  test::expect_error<UsageError>(
      [&] {
        linear(at::randn({1, 4}), run, at::kFloat);
      },
      "layer.weight", "no gradient");
}

TEST(Fp8, ErrorsNameTheOptionAndWhatItCanBeInstead) {
  const Fp8Choice choice{"some.option=fp8", "bf16"};
  const at::Device gpu(at::kCUDA, 0);
  EXPECT_NO_THROW(check_fp8(choice, at::kCPU));
  EXPECT_NO_THROW(check_fp8_capability(choice, gpu, 89));
  test::expect_error<UsageError>([&] { check_fp8_capability(choice, gpu, 86); },
                                 "some.option=fp8 needs a GPU of compute capability 8.9 or more",
                                 "found 8.6 on cuda:0; use bf16");
  const ParameterSlot fitting = dense_slot(32, 48), odd = dense_slot(20, 48);
  EXPECT_NO_THROW(check_fp8_widths(choice, gpu, fitting));
  EXPECT_NO_THROW(check_fp8_widths(choice, at::kCPU, odd));
  test::expect_error<UsageError>([&] { check_fp8_widths(choice, gpu, odd); },
                                 "some.option=fp8: on a GPU widths must be multiples of 16",
                                 "layer.weight is [20, 48]; use bf16");
}

}  // namespace
}  // namespace fbi::ops
