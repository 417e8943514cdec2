#include "fbi/kernels/gemv.h"

#include <algorithm>
#include <cmath>

#include "fbi/core/error.h"
#include "kernels/support.h"
#include "support/expect_error.h"

namespace fbi::kernels {
namespace {

using test::expect_error;

FBI_EVERY_LEVEL(Gemv);
INSTANTIATE_TEST_SUITE_P(WithoutInstructionSets, Gemv, ::testing::Values(Level::kPortable),
                         level_test_name);
FBI_EVERY_LEVEL_BUT_REF(Int8Gemv);
INSTANTIATE_TEST_SUITE_P(WithoutInstructionSets, Int8Gemv, ::testing::Values(Level::kPortable),
                         level_test_name);

/// As packed() has them: bits behind a row's last column are 0.
std::vector<std::uint8_t> random_signs(MatrixShape shape) {
  const std::int64_t bytes = row_bytes(shape.columns);
  std::vector<std::uint8_t> bits(static_cast<std::size_t>(shape.rows * bytes));
  RandomStream random(20240710, 1);
  std::uint32_t word = 0;
  for (std::size_t i = 0; i < bits.size(); ++i, word >>= 8) {
    if (i % 4 == 0) word = random.next_u32();
    bits[i] = static_cast<std::uint8_t>(word);
  }
  if (const std::int64_t rest = shape.columns % 8; rest > 0) {
    for (std::int64_t o = 1; o <= shape.rows; ++o) {
      std::uint8_t& last = bits[static_cast<std::size_t>(o * bytes - 1)];
      last = static_cast<std::uint8_t>(last & ((1 << rest) - 1));
    }
  }
  return bits;
}

/// A matrix with values to multiply; everything differs from row to row and column to column.
struct Problem {
  Problem(MatrixShape matrix_shape, ScaleStrides matrix_strides, std::int64_t token_count = 1)
      : shape(matrix_shape), strides(matrix_strides), tokens(token_count) {
    const std::int64_t scales = strides.count(shape.rows, shape.columns);
    bits = random_signs(shape);
    alpha = normals(scales, 2);
    beta = normals(scales, 3, 0.3);
    x = normals(tokens * shape.columns, 4);
  }
  BinaryLinear linear(Activations activations = Activations::kExact) const {
    SerialFor serial;
    return {bits.data(), alpha, beta, strides, shape, activations, serial};
  }
  std::vector<float> product(const BinaryLinear& w, ParallelFor& parallel) const {
    Guarded<float> y(tokens * shape.rows);
    multiply(w, x.data(), tokens, y.data(), parallel);
    return y.values();
  }
  std::vector<float> product(Activations activations = Activations::kExact) const {
    SerialFor serial;
    return product(linear(activations), serial);
  }
  /// In double from the definition, and what a relative error is relative to: the root of the sum
  /// of squares of the terms, which is what a sum with random signs is like.
  double expected(std::int64_t t, std::int64_t o, double& size) const {
    double sum = 0, squares = 0;
    for (std::int64_t i = 0; i < shape.columns; ++i) {
      const std::int64_t k = o * strides.row + i * strides.column;
      const double input = x[t * shape.columns + i];
      const double w = (sign_at(bits, shape, o, i) ? 1 : -1) * double{alpha[k]} + beta[k];
      sum += w * input;
      squares += (std::pow(alpha[k], 2) + std::pow(beta[k], 2)) * input * input;
    }
    size = std::sqrt(squares);
    return sum;
  }

  MatrixShape shape;
  ScaleStrides strides;
  std::int64_t tokens;
  std::vector<std::uint8_t> bits;
  std::vector<float> alpha, beta, x;
};

/// Largest error relative to the size of a row's terms.
double worst_error(const Problem& problem, const std::vector<float>& y) {
  double worst = 0;
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    for (std::int64_t o = 0; o < problem.shape.rows; ++o) {
      double size = 0;
      const double expected = problem.expected(t, o, size);
      worst = std::max(worst, std::abs(y[t * problem.shape.rows + o] - expected) / size);
    }
  }
  return worst;
}

const std::vector<std::int64_t> kColumns = {1, 5, 29, 31, 60, 254, 255, 256, 511, 1000};

/// Sums of up to a few hundred table entries in fp32.
constexpr double kExactTolerance = 2e-6;

TEST_P(Gemv, ExactProductOfEveryOddShape) {
  for (const Pattern& pattern : kPatterns) {
    for (const std::int64_t columns : kColumns) {
      for (const std::int64_t rows : {1, 63, 65, 130}) {
        const Problem problem({rows, columns}, pattern.strides);
        EXPECT_LE(worst_error(problem, problem.product()), kExactTolerance)
            << pattern.name << " " << rows << " x " << columns;
      }
    }
  }
}

TEST_P(Gemv, ExactProductOfLargeMatrices) {
  const Problem problem({192, 11008}, ScaleStrides::per_column(), 2);
  EXPECT_LE(worst_error(problem, problem.product()), kExactTolerance);
}

TEST_P(Gemv, ExactProductOfExtremeInputs) {
  Problem problem({64, 600}, ScaleStrides::per_column());
  std::fill(problem.alpha.begin(), problem.alpha.end(), 1.0f);
  std::fill(problem.beta.begin(), problem.beta.end(), 0.0f);
  for (const std::uint8_t bits : {0xFF, 0}) {  // every sum is as large as it can be
    std::fill(problem.bits.begin(), problem.bits.end(), bits);
    for (const float x : {3.0f, -0.7f, 1e-20f, 3e30f}) {
      std::fill(problem.x.begin(), problem.x.end(), x);
      const float sum = bits ? 600 * x : -600 * x;
      for (const float y : problem.product()) EXPECT_NEAR(y, sum, 2e-6 * std::abs(sum)) << x;
    }
  }
  std::fill(problem.x.begin(), problem.x.end(), 0.0f);
  for (const float y : problem.product()) EXPECT_EQ(y, 0);
}

/// Some inputs are hundreds of times larger than the others, as feed-forward layers have them.
TEST_P(Gemv, ExactProductBesideOutliers) {
  Problem problem({130, 2048}, ScaleStrides::per_column());
  for (std::size_t i = 5; i < problem.x.size(); i += 200) problem.x[i] *= 300;
  EXPECT_LE(worst_error(problem, problem.product()), kExactTolerance);
}

/// Integer sums leave no freedom, and the rest is one rounding per 255 inputs in the same order.
TEST_P(Int8Gemv, HasTheBitsOfTheReference) {
  for (const Pattern& pattern : kPatterns) {
    for (const std::int64_t columns : kColumns) {
      for (const std::int64_t rows : {1, 127, 129}) {
        Problem problem({rows, columns}, pattern.strides, 2);
        std::fill(problem.beta.begin(), problem.beta.end(), 0.0f);  // its dot product rounds
        const auto product = [&] { return problem.product(Activations::kInt8); };
        EXPECT_EQ(bits_of(product()), bits_of(reference(product)))
            << pattern.name << " " << rows << " x " << columns;
      }
    }
  }
}

TEST_P(Gemv, Int8IsNearTheExactProduct) {
  const Problem problem({130, 2048}, ScaleStrides::per_column());
  const double error = worst_error(problem, problem.product(Activations::kInt8));
  EXPECT_LE(error, 0.05);  // the largest of 130; standard deviation about 1e-2
  EXPECT_GE(error, 1e-4) << "this is not int8";
}

/// They cut the same whole sums differently.
TEST(GemvLevels, NeonHasTheBitsOfAvx2) {
  for (const DispatchRow& row : dispatch_rows()) {
    if ((row.level == Level::kAvx2 || row.level == Level::kNeon) && !row.available())
      GTEST_SKIP() << level_name(row.level) << ": " << row.declined;
  }
  Problem problem({130, 1500}, ScaleStrides::per_column(), 5);
  problem.x[700] = 1e5;
  for (const Activations activations : {Activations::kExact, Activations::kInt8}) {
    force_level(Level::kAvx2);
    const auto expected = problem.product(activations);
    force_level(Level::kNeon);
    EXPECT_EQ(bits_of(problem.product(activations)), bits_of(expected));
  }
  force_level(std::nullopt);
}

TEST_P(Gemv, Int8OfExtremeInputs) {
  Problem problem({64, 300}, ScaleStrides::per_column());
  std::fill(problem.alpha.begin(), problem.alpha.end(), 1.0f);
  std::fill(problem.beta.begin(), problem.beta.end(), 0.0f);
  std::fill(problem.bits.begin(), problem.bits.end(), std::uint8_t{0xFF});
  std::fill(problem.x.begin(), problem.x.end(), -3.0f);  // every sum is as large as it can be
  for (const float y : problem.product(Activations::kInt8)) EXPECT_NEAR(y, -900, 1e-3);
  std::fill(problem.x.begin(), problem.x.end(), 0.0f);
  for (const float y : problem.product(Activations::kInt8)) EXPECT_EQ(y, 0);
}

TEST_P(Gemv, ARowDoesNotDependOnTokensThreadsOrRanges) {
  const Problem many({193, 300}, ScaleStrides::per_column(), 5);
  for (const Activations activations : {Activations::kExact, Activations::kInt8}) {
    const BinaryLinear w = many.linear(activations);
    CutFor three(3);
    ThreadPool pool(4);
    const auto all = many.product(activations);
    EXPECT_EQ(bits_of(many.product(w, three)), bits_of(all));
    EXPECT_EQ(bits_of(many.product(w, pool)), bits_of(all));
    for (std::int64_t t = 0; t < many.tokens; ++t) {
      Problem one = many;
      one.tokens = 1;
      one.x.assign(many.x.begin() + t * 300, many.x.begin() + (t + 1) * 300);
      const auto alone = one.product(activations);
      EXPECT_EQ(bits_of(alone), bits_of({all.begin() + t * 193, all.begin() + (t + 1) * 193}));
    }
  }
}

/// As many tokens as lie side by side in the lanes of tables, a few more and a few less.
TEST_P(Gemv, ManyTokensHaveTheBitsOfSingleOnes) {
  constexpr std::int64_t kRows = 131, kMost = 47;
  SerialFor serial;
  for (const Pattern& pattern : kPatterns) {
    for (const std::int64_t columns : {1, 7, 63, 65, 220, 255, 256, 257, 700}) {
      Problem all({kRows, columns}, pattern.strides, kMost);
      all.x[columns / 2] *= 1e4f;
      std::fill_n(all.x.begin() + columns, columns, 0.0f);
      for (const Activations activations : {Activations::kExact, Activations::kInt8}) {
        const BinaryLinear w = all.linear(activations);
        const auto product = [&](std::int64_t first, std::int64_t tokens) {
          Guarded<float> y(tokens * kRows);
          multiply(w, all.x.data() + first * columns, tokens, y.data(), serial);
          return bits_of(y.values());
        };
        std::vector<std::uint32_t> alone;
        for (std::int64_t t = 0; t < kMost; ++t) {
          const auto one = product(t, 1);
          alone.insert(alone.end(), one.begin(), one.end());
        }
        for (const std::int64_t tokens :
             {std::int64_t{11}, std::int64_t{23}, std::int64_t{33}, kMost}) {
          const auto together = product(0, tokens);
          const auto differs = std::ranges::mismatch(together, alone).in1 - together.begin();
          ASSERT_EQ(differs, tokens * kRows)
              << pattern.name << ", " << columns << " columns, token " << differs / kRows << " of "
              << tokens << ", row " << differs % kRows;
        }
      }
    }
  }
}

TEST_P(Gemv, ManyTokensOfExtremeInputs) {
  Problem problem({64, 600}, ScaleStrides::per_column(), 32);
  std::fill(problem.alpha.begin(), problem.alpha.end(), 1.0f);
  std::fill(problem.beta.begin(), problem.beta.end(), 0.0f);
  std::fill(problem.bits.begin(), problem.bits.end(), std::uint8_t{0xFF});
  for (const Activations activations : {Activations::kExact, Activations::kInt8}) {
    std::fill(problem.x.begin(), problem.x.end(), -3.0f);  // every sum is as large as it can be
    for (const float y : problem.product(activations)) EXPECT_NEAR(y, -1800, 4e-3);
    problem.x[7 * 600 + 5] = NAN;  // the lanes beside it must not see that
    problem.x[8 * 600 + 5] = INFINITY;
    const auto y = problem.product(activations);
    for (std::int64_t n = 0; n < std::ssize(y); ++n) {
      if (n / 64 != 7 && n / 64 != 8) EXPECT_NEAR(y[n], -1800, 4e-3) << "token " << n / 64;
    }
  }
}

/// Groups of blocks of rows and several chunks of inputs, the last ones not full.
TEST_P(Gemv, LargeProductsDoNotDependOnTheirRanges) {
  Problem problem({1300, 2100}, ScaleStrides::per_column(), 2);
  std::fill(problem.beta.begin(), problem.beta.end(), 0.0f);  // its dot product rounds
  for (const Activations activations : {Activations::kExact, Activations::kInt8}) {
    const BinaryLinear w = problem.linear(activations);
    SerialFor serial;
    const auto all = problem.product(w, serial);
    if (activations == Activations::kExact) {
      EXPECT_LE(worst_error(problem, all), kExactTolerance);
    } else if (GetParam() != Level::kRef) {
      EXPECT_EQ(bits_of(all), bits_of(reference([&] { return problem.product(activations); })));
    }
    AlignedMemory tables(2 * w.table_bytes());
    for (std::int64_t t = 0; t < 2; ++t) {
      w.prepare(problem.x.data() + t * 2100, 0, w.table_parts(), false,
                tables.data() + static_cast<std::size_t>(t) * w.table_bytes());
    }
    Guarded<float> y(2 * 1300);
    std::int64_t begin = 0;
    for (const std::int64_t end : {std::int64_t{3}, std::int64_t{9}, w.row_blocks()}) {
      w.multiply(begin, end, tables.data(), 2, y.data(), 1300);
      begin = end;
    }
    EXPECT_EQ(bits_of(y.values()), bits_of(all));
  }
}

/// As decoding does: ranges that begin in the middle of groups, and whole rounds behind them.
TEST_P(Gemv, OneTokenDoesNotDependOnItsRanges) {
  constexpr std::int64_t kRows = 2900;  // 46 and 23 blocks
  const Problem problem({kRows, 700}, ScaleStrides::per_column());
  for (const Activations activations : {Activations::kExact, Activations::kInt8}) {
    const BinaryLinear w = problem.linear(activations);
    SerialFor serial;
    const auto all = problem.product(w, serial);
    AlignedMemory table(w.table_bytes());
    w.prepare(problem.x.data(), 0, w.table_parts(), false, table.data());
    for (const std::int64_t first : {1, 2, 3, 5, 7}) {
      Guarded<float> y(kRows);
      w.multiply(first, w.row_blocks(), table.data(), 1, y.data(), kRows);
      w.multiply(0, first, table.data(), 1, y.data(), kRows);
      EXPECT_EQ(bits_of(y.values()), bits_of(all)) << "from block " << first;
    }
  }
}

/// More than sixteen blocks of rows and one chunk of inputs, in ranges, of tokens side by side and
/// a few more.
TEST_P(Gemv, LargeProductsOfManyTokensHaveTheBitsOfSingleOnes) {
  constexpr std::int64_t kRows = 2200, kColumns = 2100, kTokens = 35;
  const Problem problem({kRows, kColumns}, ScaleStrides::per_column(), kTokens);
  for (const Activations activations : {Activations::kExact, Activations::kInt8}) {
    const BinaryLinear w = problem.linear(activations);
    AlignedMemory tables(static_cast<std::size_t>(kTokens) * w.table_bytes());
    const auto prepare = [&](std::int64_t t, bool in_lanes) {
      std::byte* table = tables.data() + static_cast<std::size_t>(t) * w.table_bytes();
      const std::int64_t parts = w.table_parts();
      const float* x = problem.x.data() + t * kColumns;
      w.prepare(x, 0, parts / 2, in_lanes, table);
      w.prepare(x, parts / 2, parts, in_lanes, table);
      return table;
    };
    Guarded<float> together(kTokens * kRows), alone(kTokens * kRows);
    for (std::int64_t t = 0; t < kTokens; ++t) prepare(t, t < w.tokens_in_lanes(kTokens));
    std::int64_t begin = 0;
    for (const std::int64_t end : {std::int64_t{1}, w.row_blocks()}) {
      w.multiply(begin, end, tables.data(), kTokens, together.data(), kRows);
      begin = end;
    }
    for (std::int64_t t = 0; t < kTokens; ++t) {
      w.multiply(0, w.row_blocks(), prepare(t, false), 1, alone.data() + t * kRows, kRows);
    }
    EXPECT_EQ(bits_of(together.values()), bits_of(alone.values()));
  }
}

TEST_P(Gemv, InputsThatAreNotFiniteShow) {
  for (const Activations activations : {Activations::kExact, Activations::kInt8}) {
    for (const float bad : {NAN, INFINITY}) {
      Problem problem({65, 300}, ScaleStrides::per_column());
      problem.x[17] = bad;
      for (const float y : problem.product(activations)) EXPECT_FALSE(std::isfinite(y));
    }
  }
}

TEST_P(Gemv, RefusesScalesThatDoNotFit) {
  const Problem problem({3, 5}, ScaleStrides::per_column());
  SerialFor serial;
  expect_error<UsageError>(
      [&] {
        BinaryLinear(problem.bits.data(), std::span(problem.alpha).first(4), problem.beta,
                     problem.strides, problem.shape, Activations::kExact, serial);
      },
      "[3, 5]", "expected 5", "found 4 and 5");
}

}  // namespace
}  // namespace fbi::kernels
