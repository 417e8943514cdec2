#include "fbi/kernels/adamw.h"

#include <limits>

#include "kernels/support.h"

namespace fbi::kernels {
namespace {

FBI_EVERY_LEVEL(AdamW);

AdamWStep step_of(int updates) {
  return {.lr = 3e-4,
          .weight_decay = 0.1,
          .bias_correction1 = 1 - std::pow(0.9, updates),
          .sqrt_bias_correction2 = std::sqrt(1 - std::pow(0.95, updates)),
          .grad_scale = 0.37};
}

struct State {
  std::vector<float> value, moment1, moment2, grad;

  explicit State(std::int64_t count)
      : value(normals(count, 1, 0.02)),
        moment1(normals(count, 2, 1e-3)),
        moment2(normals(count, 3, 1e-3)),
        grad(normals(count, 4, 1e-2)) {
    for (float& v : moment2) v *= v;
  }
};

struct Updated {
  std::vector<std::uint32_t> value, moment1, moment2;
  std::vector<std::uint8_t> bits;
  std::int64_t flips = 0;
  bool operator==(const Updated&) const = default;
};

Updated run_dense(const State& state, const AdamWStep& step, ParallelFor& parallel) {
  Guarded<float> value(state.value), moment1(state.moment1), moment2(state.moment2);
  adamw(value.data(), moment1.data(), moment2.data(), state.grad.data(), std::ssize(state.value),
        step, parallel);
  return {bits_of(value.values()), bits_of(moment1.values()), bits_of(moment2.values()), {}, 0};
}

Updated run_latent(const State& state, const std::vector<float>& alpha, ScaleStrides strides,
                   MatrixShape shape, const AdamWStep& step, ParallelFor& parallel) {
  Guarded<float> value(state.value), moment1(state.moment1), moment2(state.moment2);
  Guarded<std::uint8_t> bits(packed(state.value, shape));
  const std::int64_t flips =
      adamw_latent(value.data(), moment1.data(), moment2.data(), state.grad.data(), alpha.data(),
                   strides, shape, bits.data(), step, parallel);
  return {bits_of(value.values()), bits_of(moment1.values()), bits_of(moment2.values()),
          bits.values(), flips};
}

std::int64_t differing_bits(const std::vector<std::uint8_t>& a,
                            const std::vector<std::uint8_t>& b) {
  std::int64_t count = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    count += std::popcount(static_cast<std::uint8_t>(a[i] ^ b[i]));
  }
  return count;
}

TEST_P(AdamW, EqualsTheReferenceBitForBitAtEverySize) {
  for (std::int64_t count : kOddSizes) {
    const State state(count);
    SerialFor serial;
    const Updated expected = reference([&] { return run_dense(state, step_of(3), serial); });
    for (int parts : {1, 2, 3}) {
      CutFor parallel(parts);
      EXPECT_EQ(run_dense(state, step_of(3), parallel), expected) << count << ", " << parts;
    }
  }
}

TEST_P(AdamW, FollowsADoublePrecisionReplay) {
  constexpr std::int64_t kCount = 1003;
  constexpr int kSteps = 50;
  const State start(kCount);
  std::vector<double> value(start.value.begin(), start.value.end()), moment1(kCount),
      moment2(kCount);
  Guarded<float> value32(start.value), moment1_32(kCount), moment2_32(kCount);
  SerialFor serial;
  for (int k = 1; k <= kSteps; ++k) {
    const AdamWStep step = step_of(k);
    const auto grad = normals(kCount, 100 + k, 1e-2);
    adamw(value32.data(), moment1_32.data(), moment2_32.data(), grad.data(), kCount, step, serial);
    for (std::int64_t i = 0; i < kCount; ++i) {
      const double g = grad[i] * step.grad_scale;
      value[i] *= 1 - step.lr * step.weight_decay;
      moment1[i] += (1 - step.beta1) * (g - moment1[i]);
      moment2[i] = step.beta2 * moment2[i] + (1 - step.beta2) * g * g;
      value[i] -= step.lr / step.bias_correction1 * moment1[i] /
                  (std::sqrt(moment2[i]) / step.sqrt_bias_correction2 + step.eps);
    }
  }
  for (std::int64_t i = 0; i < kCount; ++i) {
    // About four roundings of 2^-24 a step, each on a value below 0.1 or an update below 1e-3; the
    // moments forget.
    EXPECT_NEAR(value32.data()[i], value[i], kSteps * 4 * 0.1 * 6e-8);
    EXPECT_NEAR(moment1_32.data()[i], moment1[i], 1e-8);
    EXPECT_NEAR(moment2_32.data()[i], moment2[i], 1e-5 * moment2[i]);
  }
}

TEST_P(AdamW, HandComputedStep) {
  // First update without decay: m / bias_correction1 = g and sqrt(v) / sqrt_bias_correction2 = |g|,
  // so the value moves by lr against the sign of the gradient.
  AdamWStep step = {
      .lr = 0.5, .bias_correction1 = 1 - 0.9, .sqrt_bias_correction2 = std::sqrt(1 - 0.95)};
  Guarded<float> value({1, 1, 1}), moment1({0, 0, 0}), moment2({0, 0, 0});
  const std::vector<float> grad = {4, -0.25f, 0};
  SerialFor serial;
  adamw(value.data(), moment1.data(), moment2.data(), grad.data(), 3, step, serial);
  EXPECT_NEAR(value.data()[0], 0.5, 1e-6);
  EXPECT_NEAR(value.data()[1], 1.5, 1e-6);
  EXPECT_EQ(value.data()[2], 1);
  EXPECT_NEAR(moment1.data()[0], 0.4, 1e-6);
  EXPECT_NEAR(moment2.data()[0], 0.8, 1e-6);
}

TEST_P(AdamW, ZeroLearningRateMovesOnlyTheMoments) {
  const State state(37);
  AdamWStep step = step_of(1);
  step.lr = 0;
  SerialFor serial;
  const Updated updated = run_dense(state, step, serial);
  EXPECT_EQ(updated.value, bits_of(state.value));
  EXPECT_NE(updated.moment1, bits_of(state.moment1));
}

TEST_P(AdamW, LatentEqualsDenseOnTheScaledGradient) {
  for (const auto& [name, strides] : kPatterns) {
    for (std::int64_t columns : kOddSizes) {
      const MatrixShape shape = {5, columns};
      const State state(shape.rows * columns);
      const auto alpha = normals(strides.count(shape.rows, columns), 5);
      State scaled = state;
      for (std::int64_t o = 0; o < shape.rows; ++o) {
        for (std::int64_t i = 0; i < columns; ++i) {
          scaled.grad[o * columns + i] *= alpha[o * strides.row + i * strides.column];
        }
      }
      AdamWStep step = step_of(2);
      step.lr = 0.02;  // as large as a weight, so that many signs flip
      SerialFor serial;
      Updated expected = reference([&] { return run_dense(scaled, step, serial); });
      std::vector<float> after;
      for (std::uint32_t u : expected.value) after.push_back(std::bit_cast<float>(u));
      expected.bits = packed(after, shape);
      expected.flips = differing_bits(packed(state.value, shape), expected.bits);
      for (int parts : {1, 2, 3}) {
        CutFor parallel(parts);
        EXPECT_EQ(run_latent(state, alpha, strides, shape, step, parallel), expected)
            << name << ", " << columns << " columns, " << parts << " parts";
      }
    }
  }
}

TEST_P(AdamW, FlipsAreChangesOfNotNegative) {
  // Decay alone, with a factor of 0 or -1, makes zeros and changes signs of latent weights.
  // Without eps, lanes beyond the row's end would divide 0 by 0: they must not count as flips.
  const std::vector<float> before = {0.0f, -0.0f, 1, -1, 1, -1};
  const std::vector<float> grad(6, 0.0f), alpha(6, 1.0f);
  SerialFor serial;
  const auto flips_with = [&](double lr, std::uint8_t& bits) {
    std::vector<float> latent = before, moment1(6), moment2(6, 1.0f);
    bits = 0b000111;
    return adamw_latent(latent.data(), moment1.data(), moment2.data(), grad.data(), alpha.data(),
                        ScaleStrides::per_column(), {1, 6}, &bits,
                        {.lr = lr, .weight_decay = 1, .eps = 0}, serial);
  };
  std::uint8_t bits;
  EXPECT_EQ(flips_with(0, bits), 0);
  EXPECT_EQ(bits, 0b010111) << "an exact zero of either sign counts as +1";
  EXPECT_EQ(flips_with(1, bits), 2) << "-1 to -0: now +1";
  EXPECT_EQ(bits, 0b111111);
  EXPECT_EQ(flips_with(2, bits), 4) << "1 and -1 change places";
  EXPECT_EQ(bits, 0b101011);
}

TEST_P(AdamW, NonFiniteGradientIsNotHidden) {
  for (float bad : {INFINITY, NAN}) {
    State state(33);
    state.grad[32] = bad;
    SerialFor serial;
    const Updated updated = run_dense(state, step_of(1), serial);
    EXPECT_TRUE(std::isnan(std::bit_cast<float>(updated.value[32])));
    EXPECT_TRUE(std::isfinite(std::bit_cast<float>(updated.value[31])));
  }
}

TEST_P(AdamW, RealThreadsChangeNothing) {
  const MatrixShape shape = {401, 515};
  const State state(shape.rows * shape.columns);
  const auto alpha = normals(shape.columns, 6);
  const auto run = [&](ParallelFor& parallel) {
    return std::pair(
        run_dense(state, step_of(4), parallel),
        run_latent(state, alpha, ScaleStrides::per_column(), shape, step_of(4), parallel));
  };
  SerialFor serial;
  const auto expected = reference([&] { return run(serial); });
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    EXPECT_TRUE(run(pool) == expected) << threads << " threads";
  }
}

TEST_P(AdamW, SumOfSquaresIsDeterministicAndAccurate) {
  for (std::int64_t count : {0, 1, 15, 16, 17, 65535, 65536, 65537, 200003}) {
    const auto x = normals(count, 7);
    double expected = 0;
    for (float value : x) expected += double{value} * value;
    SerialFor serial;
    const double found = sum_of_squares(x.data(), count, serial);
    EXPECT_NEAR(found, expected, 1e-13 * expected) << "double sums in another order";
    EXPECT_EQ(found, reference([&] { return sum_of_squares(x.data(), count, serial); }));
    for (int parts : {2, 3}) {
      CutFor parallel(parts);
      EXPECT_EQ(sum_of_squares(x.data(), count, parallel), found);
    }
  }
  const std::vector<float> huge(100, std::numeric_limits<float>::max());
  SerialFor serial;
  EXPECT_TRUE(std::isfinite(sum_of_squares(huge.data(), 100, serial))) << "no overflow in double";
}

}  // namespace
}  // namespace fbi::kernels
