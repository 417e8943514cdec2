#include <algorithm>
#include <cmath>
#include <random>

#include "fbi/kernels/gemv.h"
#include "kernels/stored_row.h"
#include "kernels/support.h"

namespace fbi::kernels {
namespace {

FBI_EVERY_LEVEL(Dense);
INSTANTIATE_TEST_SUITE_P(WithoutInstructionSets, Dense, ::testing::Values(Level::kPortable),
                         level_test_name);

const std::vector<std::int64_t> kDenseColumns = {1, 5, 29, 31, 60, 254, 255, 256, 511, 1000};

DenseLinear dense(MatrixShape shape, Storage storage, const std::vector<float>& values) {
  DenseLinear w(shape, storage);
  for (std::int64_t o = 0; o < shape.rows; ++o) {
    w.set_row(o, std::span(values).subspan(o * shape.columns, shape.columns));
  }
  return w;
}

TEST_P(Dense, DenseProductOfEveryStorage) {
  for (const Storage storage : {Storage::kFp32, Storage::kFp16, Storage::kInt8}) {
    for (const std::int64_t columns : kDenseColumns) {
      for (const std::int64_t rows : {1, 3, 4, 35}) {
        constexpr std::int64_t kTokens = 3;
        const auto values = normals(rows * columns, 1), x = normals(kTokens * columns, 2);
        const DenseLinear w = dense({rows, columns}, storage, values);
        Guarded<float> y(kTokens * rows);
        SerialFor serial;
        multiply(w, x.data(), kTokens, y.data(), serial);
        for (std::int64_t o = 0; o < rows; ++o) {
          const auto row = stored_row(w, o);
          for (std::int64_t t = 0; t < kTokens; ++t) {
            double sum = 0, squares = 0, magnitudes = 0, largest = 0;
            for (std::int64_t i = 0; i < columns; ++i) {
              const double term = double{row[i]} * x[t * columns + i];
              sum += term;
              squares += term * term;
              magnitudes += std::abs(row[i]);
              largest = std::max(largest, std::abs(double{x[t * columns + i]}));
            }
            double tolerance = 2e-6 * std::sqrt(squares) + 1e-30;
            // Half a step of x in 16 bits at each weight, and what rounds the steps.
            if (storage == Storage::kInt8) tolerance += 0.51 * largest / 32767 * magnitudes;
            EXPECT_NEAR(y.data()[t * rows + o], sum, tolerance)
                << "storage " << static_cast<int>(storage) << ", " << rows << " x " << columns;
          }
        }
      }
    }
  }
}

TEST_P(Dense, StoredRowsAreRoundedAsTheirStorageSays) {
  const auto values = normals(33, 1);
  EXPECT_EQ(stored_row(dense({1, 33}, Storage::kFp32, values), 0), values);
  auto row = stored_row(dense({1, 33}, Storage::kFp16, values), 0);
  for (int i = 0; i < 33; ++i) EXPECT_NEAR(row[i], values[i], std::abs(values[i]) * 0x1p-11);
  float largest = 0;
  for (const float v : values) largest = std::max(largest, std::abs(v));
  row = stored_row(dense({1, 33}, Storage::kInt8, values), 0);
  for (int i = 0; i < 33; ++i) EXPECT_NEAR(row[i], values[i], largest / 127 * 0.501);
}

TEST_P(Dense, ADenseRowDoesNotDependOnTokensThreadsOrRanges) {
  constexpr std::int64_t kRows = 37, kTokens = 13;  // whole groups and a rest
  for (const Storage storage : {Storage::kFp32, Storage::kFp16, Storage::kInt8}) {
    for (const std::int64_t columns : {100, 1000}) {
      const auto values = normals(kRows * columns, 1), x = normals(kTokens * columns, 2);
      const DenseLinear w = dense({kRows, columns}, storage, values);
      SerialFor serial;
      CutFor five(5);
      std::vector<float> all(kTokens * kRows), cut(kTokens * kRows), one(kRows);
      multiply(w, x.data(), kTokens, all.data(), serial);
      multiply(w, x.data(), kTokens, cut.data(), five);
      EXPECT_EQ(bits_of(cut), bits_of(all));
      for (std::int64_t t = 0; t < kTokens; ++t) {
        multiply(w, x.data() + t * columns, 1, one.data(), serial);
        const auto among = all.begin() + t * kRows;
        EXPECT_EQ(bits_of(one), bits_of({among, among + kRows}))
            << "storage " << static_cast<int>(storage) << ", " << columns << " columns, token "
            << t;
      }
    }
  }
}

/// Weights and inputs that 8 and 16 bits hold as they are, up to the largest, in more columns than
/// 32 bits could add: the sum is exact, and rounded once.
TEST_P(Dense, DenseProductsOf8BitsAreExact) {
  for (const std::int64_t columns : {1, 16, 100, 4096, 4112, 9000}) {
    constexpr std::int64_t kRows = 7, kTokens = 6;
    std::vector<float> values(kRows * columns), x(kTokens * columns);
    std::mt19937 random(1);
    for (float& v : values) v = static_cast<float>(static_cast<int>(random() % 255) - 127);
    for (float& v : x) v = static_cast<float>(static_cast<int>(random() % 65535) - 32767);
    std::fill_n(values.begin(), columns, -127.0f);
    std::fill_n(x.begin(), columns, 32767.0f);
    for (std::int64_t o = 0; o < kRows; ++o) values[o * columns] = 127;
    for (std::int64_t t = 0; t < kTokens; ++t) x[t * columns] = 32767;
    const DenseLinear w = dense({kRows, columns}, Storage::kInt8, values);
    Guarded<float> y(kTokens * kRows);
    SerialFor serial;
    multiply(w, x.data(), kTokens, y.data(), serial);
    for (std::int64_t t = 0; t < kTokens; ++t) {
      for (std::int64_t o = 0; o < kRows; ++o) {
        std::int64_t sum = 0;
        for (std::int64_t i = 0; i < columns; ++i) {
          sum += static_cast<std::int64_t>(values[o * columns + i]) *
                 static_cast<std::int64_t>(x[t * columns + i]);
        }
        EXPECT_EQ(y.data()[t * kRows + o], static_cast<float>(sum)) << columns << " columns";
      }
    }
  }
}

/// Inputs of 16 bits could not say it otherwise.
TEST_P(Dense, AnInputThatIsNoNumberSpoilsAllDenseResults) {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    for (const Storage storage : {Storage::kFp32, Storage::kFp16, Storage::kInt8}) {
      auto x = normals(40, 2);
      x[17] = bad;
      const DenseLinear w = dense({3, 40}, storage, normals(3 * 40, 1));
      Guarded<float> y(3);
      SerialFor serial;
      multiply(w, x.data(), 1, y.data(), serial);
      for (const float v : y.values()) EXPECT_FALSE(std::isfinite(v));
    }
  }
}

/// More rows than several tokens take at a time, and every rest of four.
TEST_P(Dense, DenseRowsOfOneTokenDoNotDependOnTheirRange) {
  constexpr std::int64_t kRows = 75, kColumns = 272;
  const auto values = normals(kRows * kColumns, 1), x = normals(kColumns, 2);
  for (const Storage storage : {Storage::kFp32, Storage::kFp16, Storage::kInt8}) {
    const DenseLinear w = dense({kRows, kColumns}, storage, values);
    const auto multiply = [&](std::int64_t begin, std::int64_t end, Guarded<float>& y) {
      w.multiply(begin, end, x.data(), kColumns, 1, y.data(), kRows);
    };
    Guarded<float> single(kRows);
    for (std::int64_t o = 0; o < kRows; ++o) multiply(o, o + 1, single);
    for (const std::int64_t first : {0, 1, 2, 3, 40}) {
      Guarded<float> y(kRows);
      multiply(0, first, y);
      multiply(first, kRows, y);
      EXPECT_EQ(bits_of(y.values()), bits_of(single.values())) << "from row " << first;
    }
  }
}

}  // namespace
}  // namespace fbi::kernels
