#include "fbi/kernels/layer.h"

#include <cmath>

#include "kernels/support.h"

namespace fbi::kernels {
namespace {

FBI_EVERY_LEVEL(Layer);

constexpr std::int64_t kTokens = 5;
constexpr double kEps = 1e-5;

/// Formulas of fbi/kernels/layer.h in double.
struct NormProblem {
  explicit NormProblem(std::int64_t columns)
      : width(columns),
        x(normals(kTokens * columns, 1)),
        weight(normals(columns, 2)),
        dout(normals(kTokens * columns, 3)) {}
  RmsNormInput input() const { return {x.data(), weight.data(), kTokens, width}; }
  double inverse_rms(std::int64_t t) const {
    double squares = 0;
    for (std::int64_t i = 0; i < width; ++i) squares += std::pow(double{x[t * width + i]}, 2);
    return 1 / std::sqrt(squares / static_cast<double>(width) + kEps);
  }
  std::int64_t width;
  std::vector<float> x, weight, dout;
};

TEST_P(Layer, RmsNormDividesByTheRootOfTheMeanSquare) {
  for (const std::int64_t width : kOddSizes) {
    const NormProblem p(width);
    Guarded<float> out(kTokens * width), inverse_rms(kTokens);
    CutFor three(3);
    rms_norm(p.input(), kEps, out.data(), inverse_rms.data(), three);
    for (std::int64_t t = 0; t < kTokens; ++t) {
      const double r = p.inverse_rms(t);
      EXPECT_NEAR(inverse_rms.data()[t], r, 2e-7 * r);
      for (std::int64_t i = 0; i < width; ++i) {
        const double expected = p.x[t * width + i] * r * p.weight[i];
        // Three roundings.
        EXPECT_NEAR(out.data()[t * width + i], expected, 3e-7 * std::abs(expected));
      }
    }
  }
}

TEST_P(Layer, RmsNormBackwardIsTheDerivative) {
  for (const std::int64_t width : kOddSizes) {
    const NormProblem p(width);
    std::vector<float> out(static_cast<std::size_t>(kTokens * width)), inverse_rms(kTokens);
    CutFor three(3);
    rms_norm(p.input(), kEps, out.data(), inverse_rms.data(), three);
    Guarded<float> dx(p.dout), dweight(width, 1.0f);
    // In place of dout.
    rms_norm_backward(p.input(), inverse_rms.data(), dx.data(), dx.data(), dweight.data(), three);
    std::vector<double> expected_dweight(static_cast<std::size_t>(width), 1.0);
    for (std::int64_t t = 0; t < kTokens; ++t) {
      const double r = p.inverse_rms(t);
      double mean = 0, terms = 0;
      for (std::int64_t i = 0; i < width; ++i) {
        const double n = p.x[t * width + i] * r;
        mean += p.dout[t * width + i] * n * p.weight[i] / static_cast<double>(width);
        terms += std::abs(p.dout[t * width + i] * n * p.weight[i]) / static_cast<double>(width);
        expected_dweight[i] += p.dout[t * width + i] * n;
      }
      for (std::int64_t i = 0; i < width; ++i) {
        const double n = p.x[t * width + i] * r, g = double{p.dout[t * width + i]} * p.weight[i];
        // A few roundings of each of the terms.
        EXPECT_NEAR(dx.data()[t * width + i], r * (g - n * mean),
                    1e-6 * r * (std::abs(g) + std::abs(n) * terms) + 1e-30);
      }
    }
    for (std::int64_t i = 0; i < width; ++i)
      EXPECT_NEAR(dweight.data()[i], expected_dweight[i], 1e-5);
  }
}

TEST_P(Layer, SiluProductAndItsDerivative) {
  for (const std::int64_t count : kOddSizes) {
    auto gate = normals(count, 1, 8);
    const auto up = normals(count, 2), dout = normals(count, 3);
    gate[0] = count % 2 ? 200.0f : -200.0f;  // beyond what exp can hold
    Guarded<float> out(count), dgate(count), dup(dout);
    CutFor three(3);
    silu_product(gate.data(), up.data(), count, out.data(), three);
    silu_product_backward(dup.data(), gate.data(), up.data(), count, dgate.data(), dup.data(),
                          three);
    for (std::int64_t i = 0; i < count; ++i) {
      const double g = gate[i], s = 1 / (1 + std::exp(-g));
      EXPECT_NEAR(out.data()[i], g * s * up[i], 1e-6 * std::abs(g * s * up[i]) + 1e-30) << g;
      // 1 + g(1 - s) cancels for g < 0: an error of its terms.
      const double terms = s * (1 + std::abs(g) * (1 - s));
      EXPECT_NEAR(dgate.data()[i], dout[i] * up[i] * s * (1 + g * (1 - s)),
                  1e-6 * std::abs(dout[i] * up[i]) * terms + 1e-30)
          << g;
      EXPECT_NEAR(dup.data()[i], dout[i] * g * s, 1e-6 * std::abs(dout[i] * g * s) + 1e-30) << g;
    }
  }
}

TEST_P(Layer, RotaryTurnsHeadsAndBack) {
  constexpr std::int64_t kBatch = 2, kPositions = 3, kHeads = 3;
  for (const std::int64_t half : {1, 4, 15, 16, 33}) {
    const std::int64_t width = 2 * half, size = kBatch * kPositions * kHeads * width;
    const auto x = normals(size, 1), angles = normals(kPositions * half, 2);
    std::vector<float> cos(angles), sin(angles);
    for (float& c : cos) c = std::cos(c);
    for (float& s : sin) s = std::sin(s);
    // x lies as [batch, heads, positions, head_dim]
    RotaryInput input{.x = x.data(),
                      .batch_stride = kHeads * kPositions * width,
                      .position_stride = width,
                      .head_stride = kPositions * width,
                      .batch = kBatch,
                      .positions = kPositions,
                      .heads = kHeads,
                      .head_dim = width,
                      .cos = cos.data(),
                      .sin = sin.data()};
    Guarded<float> out(size), back(size);
    CutFor three(3);
    rotary(input, false, out.data(), three);
    for (std::int64_t n = 0; n < kBatch * kPositions * kHeads; ++n) {
      const std::int64_t b = n / (kPositions * kHeads), s = n / kHeads % kPositions, h = n % kHeads;
      const float* from =
          x.data() + b * input.batch_stride + s * input.position_stride + h * input.head_stride;
      for (std::int64_t i = 0; i < half; ++i) {
        const double c = cos[s * half + i], d = sin[s * half + i];
        EXPECT_NEAR(out.data()[n * width + i], from[i] * c - from[half + i] * d, 1e-6);
        EXPECT_NEAR(out.data()[n * width + half + i], from[half + i] * c + from[i] * d, 1e-6);
      }
    }
    input.x = out.data();
    input.batch_stride = kPositions * kHeads * width, input.position_stride = kHeads * width,
    input.head_stride = width;
    rotary(input, true, back.data(), three);
    for (std::int64_t n = 0; n < kBatch * kPositions * kHeads; ++n) {
      const std::int64_t b = n / (kPositions * kHeads), s = n / kHeads % kPositions, h = n % kHeads;
      for (std::int64_t i = 0; i < width; ++i) {
        EXPECT_NEAR(back.data()[n * width + i], x[((b * kHeads + h) * kPositions + s) * width + i],
                    2e-6);
      }
    }
  }
}

}  // namespace
}  // namespace fbi::kernels
