#include "fbi/ops/slot_ops.h"

#include <gtest/gtest.h>

#include <array>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include "fbi/core/error.h"
#include "fbi/kernels/dispatch.h"
#include "fbi/ops/loss.h"
#include "fbi/ops/matrix_product.h"
#include "fbi/ops/packing.h"
#include "fbi/ops/parallel.h"
#include "fbi/ops/scale_strides.h"
#include "fbi/ops/sign_products.h"
#include "support/expect_error.h"

namespace fbi::ops {
namespace {

ParameterSlot dense_slot(const at::Tensor& value) {
  ParameterSlot slot;
  slot.name = "layer.weight";
  slot.kind = value.dim() == 1 ? SlotKind::kVector : SlotKind::kDense;
  slot.shape = value.sizes().vec();
  slot.value = value;
  slot.grad = at::zeros(slot.shape);
  return slot;
}

ParameterSlot packed_slot(const at::Tensor& latent, ScalePattern pattern) {
  ParameterSlot slot;
  slot.name = "layer.weight";
  slot.kind = SlotKind::kPacked;
  slot.shape = latent.sizes().vec();
  slot.pattern = pattern;
  slot.bits = at::zeros({slot.rows(), (slot.columns() + 7) / 8}, at::kByte);
  std::int64_t scales = 1;
  for (const auto size : scale_shape(slot)) scales *= size;
  slot.alpha = at::zeros({scales});
  slot.beta = at::zeros({scales});
  slot.grad = at::zeros(slot.shape);
  pack_signs(slot, latent);
  initial_scales(slot, latent);
  return slot;
}

constexpr ScalePattern kPatterns[] = {ScalePattern::kColumn, ScalePattern::kRow,
                                      ScalePattern::kSingle};

TEST(WorkingWeight, IsScaleTimesSignPlusShift) {
  for (const auto pattern : kPatterns) {
    const at::Tensor latent = at::randn({5, 11});
    latent[2][3] = 0;  // taken as +1
    const ParameterSlot slot = packed_slot(latent, pattern);
    const auto shape = scale_shape(slot);
    const at::Tensor sign = latent.ge(0).to(at::kFloat) * 2 - 1;
    const at::Tensor expected = slot.alpha.view(shape) * sign + slot.beta.view(shape);
    EXPECT_TRUE(working_weight(slot, at::kFloat).equal(expected));
    EXPECT_TRUE(working_weight(slot, at::kBFloat16).equal(expected.to(at::kBFloat16)));
  }
}

TEST(SlotLinear, HasTheGradientsOfAPlainProduct) {
  for (const bool packed : {false, true}) {
    const at::Tensor value = at::randn({5, 11});
    ParameterSlot slot = packed ? packed_slot(value, ScalePattern::kColumn) : dense_slot(value);
    const at::Tensor x = at::randn({2, 3, 11}).requires_grad_(true);
    const at::Tensor weight = working_weight(slot, at::kFloat).clone().requires_grad_(true);
    const at::Tensor plain_x = x.detach().clone().requires_grad_(true),
                     upstream = at::randn({2, 3, 5});
    const at::Tensor y = linear(x, slot, at::kFloat), plain = plain_x.matmul(weight.t());
    // Sums of up to 11 fp32 products, in two orders.
    EXPECT_TRUE(y.allclose(plain, 1e-5, 1e-5));
    for (int pass = 0; pass < 2; ++pass)
      torch::autograd::backward({linear(x, slot, at::kFloat)}, {upstream});
    torch::autograd::backward({plain}, {upstream});
    EXPECT_TRUE(x.grad().allclose(2 * plain_x.grad(), 1e-5, 1e-5));
    EXPECT_TRUE(slot.grad.allclose(2 * weight.grad(), 1e-5, 1e-5));  // of W~, added up
  }
}

TEST(TorchParallelFor, RunsOnSeveralThreads) {
  const int before = torch_parallel_for().threads();
  set_threads(2);
  std::set<std::thread::id> threads;
  std::mutex mutex;
  torch_parallel_for().run(0, 64, 1, [&](std::int64_t, std::int64_t) {
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  set_threads(before);
  EXPECT_EQ(threads.size(), 2u);
}

struct Products {
  at::Tensor y, dx, grad;
};

Products products(ParameterSlot& slot, SignProducts form, const at::Tensor& x,
                  const at::Tensor& upstream, at::ScalarType dtype = at::kFloat) {
  slot.products = form;
  slot.grad = at::zeros(slot.shape);
  const at::Tensor input = x.detach().clone().requires_grad_(true);
  const at::Tensor y = linear(input, slot, dtype);
  torch::autograd::backward({y}, {upstream});
  return {y.detach(), input.grad(), slot.grad};
}

/// Largest difference relative to the largest value.
double distance(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

TEST(SlotLinear, TablesOfSumsGiveTheProductsOfTheDenseForm) {
  for (const auto pattern : kPatterns) {
    ParameterSlot slot = packed_slot(at::randn({130, 77}), pattern);
    const at::Tensor x = at::randn({41, 77}), upstream = at::randn({41, 130});
    const Products dense = products(slot, SignProducts::kDense, x, upstream);
    const Products tables = products(slot, SignProducts::kTables, x, upstream);
    // Sums of about a hundred fp32 numbers in another order.
    EXPECT_LE(distance(tables.y, dense.y), 2e-6);
    EXPECT_LE(distance(tables.dx, dense.dx), 2e-6);
    EXPECT_TRUE(tables.grad.equal(dense.grad));  // formed alike
    const Products rounded = products(slot, SignProducts::kInt8, x, upstream);
    EXPECT_LE(distance(rounded.y, dense.y), 2e-2);  // 8 bits, and sums of as many errors
    EXPECT_GE(distance(rounded.y, dense.y), 1e-5) << "this is not int8";
    EXPECT_LE(distance(rounded.dx, dense.dx), 2e-2);
  }
}

/// Signs are exact and 3 bits of mantissa stay of alpha·x: each of its numbers moves by 2^-4 of
/// itself at most, or, far below the row's largest, by 2^-10 of that / 448 (halves of steps).
/// Both products add in fp32, the dense one rounds W~ and, in bf16, both their results.
TEST(SlotLinear, Fp8RoundsInputsOfTheForwardProductAlone) {
  for (const auto pattern : kPatterns) {
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
      ParameterSlot slot = packed_slot(at::randn({48, 77}), pattern);
      const at::Tensor x = at::randn({9, 77}).to(dtype).to(at::kFloat),
                       upstream = at::randn({9, 48}).to(dtype);
      const Products dense = products(slot, SignProducts::kDense, x, upstream, dtype);
      const Products fp8 = products(slot, SignProducts::kFp8, x, upstream, dtype);
      EXPECT_EQ(fp8.y.scalar_type(), dtype);
      EXPECT_TRUE(fp8.dx.equal(dense.dx));
      EXPECT_TRUE(fp8.grad.equal(dense.grad));
      const at::Tensor scaled = pattern == ScalePattern::kColumn ? x * slot.alpha : x;
      const at::Tensor top = scaled.abs().amax(-1, /*keepdim=*/true);
      at::Tensor bound =
          (scaled.abs() * 0x1p-4).maximum(top * (0x1p-10 / 448)).sum(-1, /*keepdim=*/true);
      if (pattern != ScalePattern::kColumn) bound = bound * slot.alpha.abs();
      const at::Tensor size = x.abs().matmul(working_weight(slot, at::kFloat).abs().t());
      bound = bound + size * (dtype == at::kFloat ? 1e-5 : 3 * 0x1p-8);
      const at::Tensor error = (fp8.y.to(at::kFloat) - dense.y.to(at::kFloat)).abs();
      EXPECT_TRUE(error.le(bound).all().item<bool>());
      // Errors of 77 numbers, evenly within the bounds, mostly cancel; none at all would be no fp8.
      const double share = (error.norm() / dense.y.to(at::kFloat).norm()).item<double>();
      EXPECT_LT(share, 0.06);
      EXPECT_GT(share, 0.005);
    }
  }
}

TEST(SlotLinear, Fp8WithoutAShiftAddsNone) {
  ParameterSlot slot = packed_slot(at::randn({16, 32}), ScalePattern::kColumn);
  slot.products = SignProducts::kFp8;
  slot.beta.zero_();
  const at::NoGradGuard no_grad;
  const at::Tensor x = at::randn({3, 32}), with_zeros = linear(x, slot, at::kFloat);
  slot.learns_shift = false;
  EXPECT_TRUE(linear(x, slot, at::kFloat).equal(with_zeros));
}

TEST(SlotLinear, FewTokensTakeTheDenseForm) {
  ParameterSlot slot = packed_slot(at::randn({130, 77}), ScalePattern::kColumn);
  const at::Tensor x = at::randn({3, 77}), upstream = at::randn({3, 130});
  EXPECT_TRUE(products(slot, SignProducts::kInt8, x, upstream)
                  .y.equal(products(slot, SignProducts::kDense, x, upstream).y));
}

TEST(SignProductsOption, AutoTakesTheFasterOne) {
  const auto of_auto = [](at::ScalarType dtype, std::int64_t hidden_size) {
    return choose_sign_products("auto", at::kCPU, dtype, hidden_size);
  };
  EXPECT_EQ(of_auto(at::kBFloat16, 768), SignProducts::kDense);
  const bool look_ups = kernels::chosen_level() >= kernels::Level::kNeon;
  EXPECT_EQ(of_auto(at::kFloat, 768), look_ups ? SignProducts::kTables : SignProducts::kDense);
  const bool wide_look_ups = kernels::chosen_level() == kernels::Level::kAvx512;
  EXPECT_EQ(of_auto(at::kFloat, 128), wide_look_ups ? SignProducts::kTables : SignProducts::kDense);
}

TEST(WorkingCopy, IsUnpackedOnceUntilSignsOrScalesChange) {
  ParameterSlot slot = packed_slot(at::randn({24, 40}), ScalePattern::kColumn);
  const at::Tensor x = at::randn({5, 40}), upstream = at::randn({5, 24});
  const auto both = [&](at::ScalarType dtype) {
    ParameterSlot other = slot;
    other.unpacked.reset();
    const at::NoGradGuard no_grad;
    EXPECT_TRUE(linear(x, slot, dtype).equal(linear(x, other, dtype)));
  };
  keep_unpacked(slot, at::kFloat);
  EXPECT_FALSE(slot.unpacked_is_current);
  both(at::kFloat);
  EXPECT_TRUE(slot.unpacked_is_current);
  EXPECT_TRUE(slot.unpacked.equal(working_weight(slot, at::kFloat)));
  both(at::kBFloat16);  // a type of which it has no copy

  slot.unpacked.zero_();  // products read it, forward and backward
  const Products read = products(slot, SignProducts::kDense, x, upstream);
  EXPECT_TRUE(read.y.eq(0).all().item<bool>());
  EXPECT_TRUE(read.dx.eq(0).all().item<bool>());

  pack_signs(slot, at::randn({24, 40}));
  both(at::kFloat);
  initial_scales(slot, at::randn({24, 40}));
  both(at::kFloat);
  EXPECT_TRUE(slot.unpacked.equal(working_weight(slot, at::kFloat)));
}

TEST(WorkingCopy, IsForBinarizedWeights) {
  ParameterSlot dense = dense_slot(at::randn({4, 8}));
  ParameterSlot packed = packed_slot(at::randn({4, 8}), ScalePattern::kColumn);
  test::expect_error<UsageError>([&] { keep_unpacked(dense, at::kFloat); }, "layer.weight",
                                 "binarized weights");
  test::expect_error<UsageError>([&] { keep_unpacked(packed, at::kHalf); }, "Half", "fp32 or bf16");
}

TEST(SignProductsOption, RefusesTablesWhereThereAreNone) {
  EXPECT_EQ(choose_sign_products("tables", at::kCPU, at::kFloat, 128), SignProducts::kTables);
  EXPECT_EQ(choose_sign_products("int8", at::kCPU, at::kFloat, 128), SignProducts::kInt8);
  test::expect_error<UsageError>(
      [] { choose_sign_products("tables", at::kCPU, at::kBFloat16, 128); },
      "train.sign_products=tables computes in fp32 on the CPU; found cpu and BFloat16");
}

TEST(SignProductsOption, Fp8IsForTheCpuToTryAndForGpusInBf16) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    EXPECT_EQ(choose_sign_products("fp8", at::kCPU, dtype, 128), SignProducts::kFp8);
  test::expect_error<UsageError>(
      [] { choose_sign_products("fp8", at::Device(at::kCUDA, 0), at::kFloat, 128); },
      "train.sign_products=fp8 gives bf16 on a GPU, found Float", "set train.precision=bf16");
  EXPECT_TRUE(unpacks(SignProducts::kDense));
  EXPECT_TRUE(unpacks(SignProducts::kFp8));  // for backward
  EXPECT_FALSE(unpacks(SignProducts::kTables));
}

TEST(MatrixProduct, OfEveryTransposition) {
  const at::Tensor a = at::randn({37, 19}), b = at::randn({19, 23});
  const at::Tensor expected = a.to(at::kDouble).matmul(b.to(at::kDouble)).to(at::kFloat);
  const auto turned = [](const at::Tensor& x) { return x.t().contiguous().t(); };
  for (const at::Tensor& left : {a, turned(a)}) {
    for (const at::Tensor& right : {b, turned(b)})
      EXPECT_LE(distance(matrix_product(left, right), expected), 1e-6);
  }
  EXPECT_EQ(matrix_product(a.slice(0, 0, 0), b).sizes(), (at::IntArrayRef{0, 23}));
}

TEST(SlotLinear, InBf16RoundsTheWeightOnceAndAddsGradientsInFp32) {
  ParameterSlot slot = packed_slot(at::randn({5, 11}), ScalePattern::kRow);
  const at::Tensor x = at::randn({7, 11}).requires_grad_(true),
                   upstream = at::randn({7, 5}).to(at::kBFloat16);
  const at::Tensor y = linear(x, slot, at::kBFloat16);
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  torch::autograd::backward({y}, {upstream});
  const at::Tensor expected =
      upstream.to(at::kFloat).t().mm(x.detach().to(at::kBFloat16).to(at::kFloat));
  EXPECT_EQ(slot.grad.scalar_type(), at::kFloat);
  EXPECT_TRUE(slot.grad.allclose(expected, 1e-6, 1e-6));
}

TEST(SlotLinear, WithoutABufferFormsNoParameterGradient) {
  ParameterSlot slot = dense_slot(at::randn({5, 11}));
  slot.grad = at::Tensor();
  const at::Tensor x = at::randn({7, 11}).requires_grad_(true);
  torch::autograd::backward({linear(x, slot, at::kFloat)}, {at::ones({7, 5})});
  EXPECT_TRUE(x.grad().defined());
  EXPECT_FALSE(slot.grad.defined());
}

TEST(SlotLinear, RefusesInputsOfAnotherWidth) {
  ParameterSlot slot = dense_slot(at::randn({5, 11}));
  test::expect_error<UsageError>(
      [&] {
        linear(at::ones({2, 10}), slot, at::kFloat);
      },
      "layer.weight: expected inputs of width 11, found 10");
}

TEST(RmsNormOp, HasTheGradientsOfItsFormula) {
  ParameterSlot slot = dense_slot(at::randn({11}));
  const at::Tensor x = at::randn({2, 3, 11}).requires_grad_(true);
  const at::Tensor plain_x = x.detach().to(at::kDouble).requires_grad_(true);
  const at::Tensor weight = slot.value.to(at::kDouble).requires_grad_(true);
  const at::Tensor upstream = at::randn({2, 3, 11});
  const at::Tensor y = rms_norm(x, slot, 1e-2);
  const at::Tensor plain = weight * plain_x / (plain_x.square().mean(-1, true) + 1e-2).sqrt();
  torch::autograd::backward({y}, {upstream});
  torch::autograd::backward({plain}, {upstream.to(at::kDouble)});
  // fp32 against double on values of size 1.
  EXPECT_TRUE(y.to(at::kDouble).allclose(plain, 1e-5, 1e-5));
  EXPECT_TRUE(x.grad().to(at::kDouble).allclose(plain_x.grad(), 1e-5, 1e-5));
  EXPECT_TRUE(slot.grad.to(at::kDouble).allclose(weight.grad(), 1e-5, 1e-5));
}

/// The same operations with everything kept are the other opinion: no bit may differ.
TEST(RemadeInputs, HaveTheBitsOfKeptOnes) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    ParameterSlot norm = dense_slot(at::randn({11}));
    ParameterSlot gate = packed_slot(at::randn({24, 11}), ScalePattern::kColumn);
    ParameterSlot up = dense_slot(at::randn({24, 11}));
    ParameterSlot down = packed_slot(at::randn({11, 24}), ScalePattern::kRow);
    const std::vector<ParameterSlot*> inner = {&gate, &up};
    const at::Tensor values = at::randn({2, 3, 11}), upstream = at::randn({2, 3, 11}).to(dtype);
    const auto kept = [&](const at::Tensor& x) {
      const auto products = linears(rms_norm(x, norm, 1e-2), inner, dtype);
      return linear(silu_product(products[0], products[1]), down, dtype);
    };
    const auto remade = [&](const at::Tensor& x) {
      const auto products = normed_linears(x, norm, 1e-2, inner, dtype);
      return silu_product_linear(products[0], products[1], down, dtype);
    };
    const auto results = [&](const auto& feed_forward) {
      const std::vector<ParameterSlot*> slots = {&norm, &gate, &up, &down};
      for (auto* slot : slots) slot->grad = at::zeros(slot->shape);
      const at::Tensor x = values.clone().requires_grad_(true), y = feed_forward(x);
      torch::autograd::backward({y}, {upstream});
      std::vector<at::Tensor> out = {y, x.grad()};
      for (auto* slot : slots) out.push_back(slot->grad);
      const at::NoGradGuard no_grad;
      out.push_back(feed_forward(values));
      return out;
    };
    const auto expected = results(kept), found = results(remade);
    for (std::size_t i = 0; i < expected.size(); ++i)
      EXPECT_TRUE(found[i].equal(expected[i])) << dtype << " " << i;
  }
}

TEST(RotaryOp, RotatesHalvesAndRotatesGradientsBack) {
  const at::Tensor angle = at::rand({4, 3}), x = at::randn({2, 5, 4, 6}).requires_grad_(true);
  const at::Tensor upstream = at::randn({2, 5, 4, 6});
  const at::Tensor y = rotary(x, angle.cos(), angle.sin());
  for (const std::int64_t pair : {0, 2}) {
    const double c = angle[3][pair].cos().item<double>(), s = angle[3][pair].sin().item<double>();
    const double a = x[1][4][3][pair].item<double>(), b = x[1][4][3][pair + 3].item<double>();
    EXPECT_NEAR(y[1][4][3][pair].item<double>(), a * c - b * s, 1e-6);
    EXPECT_NEAR(y[1][4][3][pair + 3].item<double>(), b * c + a * s, 1e-6);
  }
  torch::autograd::backward({y}, {upstream});
  // A rotation keeps inner products: <R x, g> = <x, R^-1 g>, and R^-1 keeps the norm.
  EXPECT_NEAR((y * upstream).sum().item<double>(), (x * x.grad()).sum().item<double>(), 1e-4);
  EXPECT_NEAR(x.grad().norm().item<double>(), upstream.norm().item<double>(), 1e-4);
}

/// LibTorch's own attention is the other opinion; both round in fp32.
TEST(CausalAttentionOp, AgreesWithLibTorchForwardAndBackward) {
  const std::int64_t batch = 2, positions = 70, dim = 24;
  for (const auto& [heads, key_heads] : {std::pair{4, 2}, {3, 3}}) {
    const at::Tensor joint = at::randn({batch, positions, heads + 2 * key_heads, dim});
    const at::Tensor upstream = at::randn({batch, heads, positions, dim});
    // Ours and LibTorch's: out, gradient of all inputs.
    std::array<std::array<at::Tensor, 2>, 2> results;
    for (auto& result : results) {
      const at::Tensor all = joint.clone().requires_grad_(true);
      const at::Tensor by_head = all.transpose(1, 2);
      const auto parts = by_head.split_with_sizes({heads, key_heads, key_heads}, 1);
      const auto repeated = [&](const at::Tensor& x) {
        return x.repeat_interleave(heads / key_heads, 1);
      };
      result[0] = &result == results.data()
                      ? causal_attention(parts[0], parts[1], parts[2])
                      : at::scaled_dot_product_attention(parts[0], repeated(parts[1]),
                                                         repeated(parts[2]), {}, 0.0, true);
      torch::autograd::backward({result[0]}, {upstream});
      result[1] = all.grad();
    }
    EXPECT_TRUE(results[0][0].transpose(1, 2).is_contiguous());
    EXPECT_TRUE(at::allclose(results[0][0], results[1][0], 1e-5, 1e-5));
    EXPECT_TRUE(at::allclose(results[0][1], results[1][1], 1e-5, 1e-5));
  }
}

TEST(CausalAttentionOp, TakesOnlyFp32) {
  const at::Tensor x = at::randn({1, 1, 2, 4}, at::kBFloat16);
  test::expect_error<UsageError>([&] { causal_attention(x, x, x); }, "fp32");
}

TEST(EmbeddingOp, AddsGradientsInTokenOrderButNotOfPadding) {
  ParameterSlot slot = dense_slot(at::randn({4, 130}));  // wider than what one thread takes at once
  const at::Tensor ids = at::tensor({1, 3, 1, 0, 1}, at::kLong), dx = at::randn({5, 130});
  EXPECT_TRUE(embedding(ids, slot)[3].equal(slot.value[0]));
  accumulate_embedding_gradient(slot, ids, dx, 0);
  EXPECT_TRUE(slot.grad[1].equal((dx[0] + dx[2]) + dx[4]));
  EXPECT_TRUE(slot.grad[3].equal(dx[1]));
  EXPECT_TRUE(slot.grad[0].eq(0).all().item<bool>());
  accumulate_embedding_gradient(slot, ids, dx, -1);
  EXPECT_TRUE(slot.grad[0].equal(dx[3]));
  EXPECT_TRUE(slot.grad[3].equal(dx[1] + dx[1]));
}

TEST(Packing, RefusesLatentWeightsOfAnotherForm) {
  ParameterSlot slot = packed_slot(at::randn({5, 11}), ScalePattern::kColumn);
  test::expect_error<UsageError>(
      [&] {
        pack_signs(slot, at::randn({11, 5}));
      },
      "layer.weight", "[5, 11]", "found [11, 5]");
  test::expect_error<UsageError>(
      [&] {
        initial_scales(slot, at::randn({11, 5}).t());
      },
      "contiguous");
}

TEST(Loss, RefusesShapesThatDoNotFit) {
  at::Tensor logits = at::randn({3, 7});
  const at::Tensor targets = at::zeros({3}, at::kInt);
  test::expect_error<UsageError>([&] { next_token_nll(logits, at::zeros({2}, at::kInt)); },
                                 "expected 3 int32 targets");
  test::expect_error<UsageError>([&] { next_token_nll(logits.t(), targets); }, "contiguous fp32");
  test::expect_error<UsageError>(
      [&] {
        distill_loss(logits, at::randn({3, 8}), targets, {0, 1, 1}, 1.0);
      },
      "student logits [3, 7] but teacher logits [3, 8]");
  test::expect_error<DataError>([&] { next_token_nll(logits, targets + 7); }, "7");
}

}  // namespace
}  // namespace fbi::ops
