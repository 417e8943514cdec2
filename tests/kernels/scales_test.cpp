#include "fbi/kernels/binary_matrix.h"
#include "kernels/support.h"

namespace fbi::kernels {
namespace {

FBI_EVERY_LEVEL(Scales);

struct Gradients {
  std::vector<float> dalpha, dbeta;
  double squares = 0;
  bool operator==(const Gradients&) const = default;
};

struct ScalesProblem {
  MatrixShape shape;
  ScaleStrides strides;
  std::vector<float> raw_grad, alpha;
  std::vector<std::uint8_t> bits;

  ScalesProblem(MatrixShape shape, ScaleStrides strides)
      : shape(shape),
        strides(strides),
        raw_grad(normals(shape.rows * shape.columns, 1, 1e-3)),
        alpha(normals(strides.count(shape.rows, shape.columns), 2)),
        bits(packed(normals(shape.rows * shape.columns, 3), shape)) {}

  Gradients run(ParallelFor& parallel) const {
    const std::int64_t count = strides.count(shape.rows, shape.columns);
    Guarded<float> dalpha(count), dbeta(count);
    const double squares = scale_gradients(raw_grad.data(), bits.data(), alpha.data(), strides,
                                           shape, dalpha.data(), dbeta.data(), parallel);
    return {dalpha.values(), dbeta.values(), squares};
  }
};

/// The definition, in double and in plain order.
void expect_defined_sums(const ScalesProblem& problem, const Gradients& found) {
  const auto& [shape, strides, raw_grad, alpha, bits] = problem;
  const std::int64_t count = strides.count(shape.rows, shape.columns);
  std::vector<double> dalpha(count), dbeta(count), magnitude(count);
  double squares = 0;
  for (std::int64_t o = 0; o < shape.rows; ++o) {
    for (std::int64_t i = 0; i < shape.columns; ++i) {
      const std::int64_t k = o * strides.row + i * strides.column;
      const double g = raw_grad[o * shape.columns + i];
      dalpha[k] += sign_at(bits, shape, o, i) ? g : -g;
      dbeta[k] += g;
      magnitude[k] += std::abs(g);
      squares += g * alpha[k] * g * alpha[k];
    }
  }
  for (std::int64_t k = 0; k < count; ++k) {
    // The sums are double; their result is rounded to fp32 once (2^-24), relative to at most Σ|G|.
    EXPECT_NEAR(found.dalpha[k], dalpha[k], 1e-7 * magnitude[k]) << "scale " << k;
    EXPECT_NEAR(found.dbeta[k], dbeta[k], 1e-7 * magnitude[k]) << "scale " << k;
  }
  EXPECT_NEAR(found.squares, squares, 1e-12 * squares) << "double sums in another order";
}

TEST_P(Scales, GradientsAreTheDefinedSumsForEveryPatternAndSize) {
  for (const auto& [name, strides] : kPatterns) {
    for (std::int64_t rows : {1, 3, 8, 9, 127, 128, 129, 300}) {
      for (std::int64_t columns : {1, 7, 8, 9, 15, 17, 31, 33, 257}) {
        SCOPED_TRACE(testing::Message() << name << " [" << rows << ", " << columns << "]");
        const ScalesProblem problem({rows, columns}, strides);
        SerialFor serial;
        const Gradients found = problem.run(serial);
        expect_defined_sums(problem, found);
        EXPECT_EQ(found, reference([&] { return problem.run(serial); })) << "level differs";
        for (int parts : {2, 3, 5}) {
          CutFor parallel(parts);
          EXPECT_EQ(found, problem.run(parallel)) << parts << " parts";
        }
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(Scales, GradientsDoNotDependOnRealThreads) {
  for (const auto& [name, strides] : kPatterns) {
    const ScalesProblem problem({777, 515}, strides);
    SerialFor serial;
    const Gradients expected = problem.run(serial);
    for (int threads : {2, 3}) {
      ThreadPool pool(threads);
      EXPECT_EQ(problem.run(pool), expected) << name << ", " << threads << " threads";
    }
  }
}

TEST_P(Scales, NonFiniteGradientReachesTheNorm) {
  for (const auto& [name, strides] : kPatterns) {
    for (float bad : {INFINITY, -INFINITY, NAN}) {
      for (std::int64_t position : {0, 16, 36 * 2 + 35}) {
        ScalesProblem problem({3, 36}, strides);
        problem.raw_grad[position] = bad;
        SerialFor serial;
        EXPECT_FALSE(std::isfinite(problem.run(serial).squares)) << name << " at " << position;
      }
    }
  }
}

TEST_P(Scales, InitialScalesAreMeanAndMeanAbsoluteDeviation) {
  for (const auto& [name, strides] : kPatterns) {
    for (std::int64_t columns : {1, 7, 17, 257}) {
      SCOPED_TRACE(testing::Message() << name << ", " << columns << " columns");
      const MatrixShape shape = {300, columns};
      const std::int64_t count = strides.count(shape.rows, columns);
      const auto latent = normals(shape.rows * columns, 4, 0.02);
      SerialFor serial;
      Guarded<float> alpha(count), beta(count);
      initial_scales(latent.data(), strides, shape, alpha.data(), beta.data(), serial);
      const double terms = static_cast<double>(shape.rows * columns) / static_cast<double>(count);
      std::vector<double> mean(count), deviation(count);
      const auto scale_of = [&](std::int64_t e) {
        return e / columns * strides.row + e % columns * strides.column;
      };
      for (std::int64_t e = 0; e < shape.rows * columns; ++e)
        mean[scale_of(e)] += latent[e] / terms;
      for (std::int64_t e = 0; e < shape.rows * columns; ++e) {
        deviation[scale_of(e)] += std::abs(latent[e] - mean[scale_of(e)]) / terms;
      }
      for (std::int64_t k = 0; k < count; ++k) {
        // One rounding of the result; |W - beta| is formed in fp32 from the rounded beta, as
        // published.
        EXPECT_NEAR(beta.data()[k], mean[k], 1e-9);
        EXPECT_NEAR(alpha.data()[k], deviation[k], 1e-7 * 0.02);
      }
      for (int parts : {2, 3}) {
        CutFor parallel(parts);
        Guarded<float> alpha2(count), beta2(count);
        initial_scales(latent.data(), strides, shape, alpha2.data(), beta2.data(), parallel);
        EXPECT_EQ(alpha.values(), alpha2.values());
        EXPECT_EQ(beta.values(), beta2.values());
      }
    }
  }
}

}  // namespace
}  // namespace fbi::kernels
