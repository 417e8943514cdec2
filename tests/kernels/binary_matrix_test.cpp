#include "fbi/kernels/binary_matrix.h"

#include <limits>

#include "fbi/core/error.h"
#include "kernels/support.h"
#include "support/expect_error.h"

namespace fbi::kernels {
namespace {

FBI_EVERY_LEVEL(BinaryMatrix);

/// Normal numbers with zeros of both signs and the smallest numbers among them.
std::vector<float> latent_values(MatrixShape shape) {
  std::vector<float> latent = normals(shape.rows * shape.columns, 1, 0.02);
  constexpr float kTiny = std::numeric_limits<float>::denorm_min();
  const float special[] = {0.0f, -0.0f, kTiny, -kTiny, std::numeric_limits<float>::infinity()};
  for (std::size_t i = 0; i < latent.size(); i += 3) latent[i] = special[i / 3 % 5];
  return latent;
}

TEST_P(BinaryMatrix, PackedSignIsOneWhereLatentIsNotNegative) {
  for (std::int64_t columns : kOddSizes) {
    const MatrixShape shape = {5, columns};
    const std::vector<float> latent = latent_values(shape);
    for (int parts : {1, 2, 3}) {
      Guarded<std::uint8_t> bits(shape.rows * row_bytes(columns), 0xFF);
      CutFor parallel(parts);
      pack_signs(latent.data(), shape, bits.data(), parallel);
      const auto values = bits.values();
      for (std::int64_t o = 0; o < shape.rows; ++o) {
        for (std::int64_t i = 0; i < row_bytes(columns) * 8; ++i) {
          const bool expected = i < columns && latent[o * columns + i] >= 0;
          ASSERT_EQ(sign_at(values, shape, o, i), expected)
              << columns << " columns, " << o << ", " << i;
        }
      }
    }
  }
}

TEST_P(BinaryMatrix, NotANumberPacksAsMinusOne) {
  const std::vector<float> latent(17, std::numeric_limits<float>::quiet_NaN());
  EXPECT_THAT(packed(latent, {1, 17}), ::testing::Each(0));
}

TEST_P(BinaryMatrix, TransposedSigns) {
  for (const std::int64_t rows : {1, 7, 8, 9, 64, 130}) {
    for (const std::int64_t columns : kOddSizes) {
      const MatrixShape shape = {rows, columns}, transposed = {columns, rows};
      const auto bits = packed(normals(rows * columns, 5), shape);
      Guarded<std::uint8_t> out(columns * row_bytes(rows), 0xFF);
      CutFor parallel(3);
      transpose_signs(bits.data(), shape, out.data(), parallel);
      const auto values = out.values();
      for (std::int64_t i = 0; i < columns; ++i) {
        for (std::int64_t o = 0; o < row_bytes(rows) * 8; ++o) {
          const bool expected = o < rows && sign_at(bits, shape, o, i);
          ASSERT_EQ(sign_at(values, transposed, i, o), expected)
              << rows << " x " << columns << ": " << o << ", " << i;
        }
      }
    }
  }
}

TEST_P(BinaryMatrix, EffectiveWeightIsExactForEveryPatternAndSize) {
  for (const auto& [name, strides] : kPatterns) {
    for (std::int64_t columns : kOddSizes) {
      const MatrixShape shape = {4, columns};
      const auto bits = packed(normals(shape.rows * columns, 2), shape);
      const std::int64_t count = strides.count(shape.rows, columns);
      const auto alpha = normals(count, 3), beta = normals(count, 4, 1e-3);
      for (int parts : {1, 2, 3}) {
        Guarded<float> out(shape.rows * columns);
        CutFor parallel(parts);
        effective_weight(bits.data(), alpha.data(), beta.data(), strides, shape, out.data(),
                         parallel);
        for (std::int64_t o = 0; o < shape.rows; ++o) {
          for (std::int64_t i = 0; i < columns; ++i) {
            const std::int64_t k = o * strides.row + i * strides.column;
            const float signed_alpha = sign_at(bits, shape, o, i) ? alpha[k] : -alpha[k];
            ASSERT_EQ(out.data()[o * columns + i], signed_alpha + beta[k])
                << name << ", " << columns << " columns, " << o << ", " << i;
          }
        }
      }
    }
  }
}

TEST_P(BinaryMatrix, Bf16FormIsTheRoundedFp32Form) {
  for (const auto& [name, strides] : kPatterns) {
    for (std::int64_t columns : kOddSizes) {
      const MatrixShape shape = {3, columns};
      const auto bits = packed(normals(shape.rows * columns, 5), shape);
      const std::int64_t count = strides.count(shape.rows, columns);
      const auto alpha = normals(count, 6), beta = normals(count, 7, 1e-2);
      CutFor parallel(2);
      Guarded<float> wide(shape.rows * columns);
      Guarded<std::uint16_t> out(shape.rows * columns);
      effective_weight(bits.data(), alpha.data(), beta.data(), strides, shape, wide.data(),
                       parallel);
      effective_weight_bf16(bits.data(), alpha.data(), beta.data(), strides, shape, out.data(),
                            parallel);
      for (std::int64_t i = 0; i < shape.rows * columns; ++i) {
        const double value = wide.data()[i];
        const float rounded = std::bit_cast<float>(std::uint32_t{out.data()[i]} << 16);
        // Half a unit in the last of 8 significant bits.
        ASSERT_LE(std::abs(rounded - value), std::ldexp(1.0, std::ilogb(value) - 8))
            << name << ", " << columns << " columns, element " << i;
      }
    }
  }
}

/// The bf16 form of weights that are x: alpha = x, signs of 1, beta = -0.
std::vector<std::uint16_t> rounded(const std::vector<float>& x) {
  const MatrixShape shape = {1, std::ssize(x)};
  const auto bits = packed(std::vector<float>(x.size(), 1), shape);
  const std::vector<float> beta(x.size(), -0.0f);
  Guarded<std::uint16_t> out(shape.columns);
  SerialFor serial;
  effective_weight_bf16(bits.data(), x.data(), beta.data(), ScaleStrides::per_column(), shape,
                        out.data(), serial);
  return out.values();
}

TEST_P(BinaryMatrix, Bf16FormRoundsToNearestEven) {
  const auto expect = [](float x, std::uint16_t expected, const char* what) {
    // One vector and a rest.
    EXPECT_THAT(rounded(std::vector<float>(17, x)), ::testing::Each(expected)) << x << what;
  };
  expect(1.0f, 0x3F80, "");
  expect(-2.0f, 0xC000, "");
  expect(-0.0f, 0x8000, "");
  expect(0x1.01p+0f, 0x3F80, ", half way: down to even");
  expect(0x1.03p+0f, 0x3F82, ", half way: up to even");
  expect(0x1.0102p+0f, 0x3F81, ", just above half way");
  expect(0x1.fffffep+127f, 0x7F80, " rounds up to infinity");
  expect(INFINITY, 0x7F80, "");
  expect(-INFINITY, 0xFF80, "");
  expect(0x1p-130f, 0x0008, ", subnormal kept");
  for (std::uint32_t nan : {0x7F800001u, 0x7FFFFFFFu, 0xFFC00000u}) {
    expect(std::bit_cast<float>(nan), 0x7FC0, "");
  }
}

TEST_P(BinaryMatrix, Bf16FormKeepsEveryBfloat16) {
  constexpr std::uint32_t kCount = 1 << 16;
  std::vector<float> all;
  for (std::uint32_t u = 0; u < kCount; ++u) all.push_back(std::bit_cast<float>(u << 16));
  const auto found = rounded(all);
  for (std::uint32_t u = 0; u < kCount; ++u) {
    ASSERT_EQ(found[u], std::isnan(all[u]) ? 0x7FC0 : u);
  }
}

TEST_P(BinaryMatrix, EmptyMatrixIsAllowed) {
  SerialFor serial;
  pack_signs(nullptr, {0, 8}, nullptr, serial);
  effective_weight(nullptr, nullptr, nullptr, ScaleStrides::single(), {0, 0}, nullptr, serial);
}

TEST_P(BinaryMatrix, RefusesStridesOfNoPattern) {
  SerialFor serial;
  const std::uint8_t bits = 1;
  const float scale = 1;
  float out = 0;
  test::expect_error<UsageError>(
      [&] {
        effective_weight(&bits, &scale, &scale, {1, 1}, {1, 1}, &out, serial);
      },
      "strides of alpha and beta", "expected {0, 1} (column)", "found {1, 1}");
}

TEST_P(BinaryMatrix, EqualsTheReferenceOnALargeMatrixWithRealThreads) {
  const MatrixShape shape = {301, 1027};
  const auto latent = latent_values(shape);
  const auto alpha = normals(shape.columns, 10), beta = normals(shape.columns, 11);
  const auto run = [&](int threads) {
    ThreadPool pool(threads);
    Guarded<std::uint8_t> bits(shape.rows * row_bytes(shape.columns));
    Guarded<float> out(shape.rows * shape.columns);
    pack_signs(latent.data(), shape, bits.data(), pool);
    effective_weight(bits.data(), alpha.data(), beta.data(), ScaleStrides::per_column(), shape,
                     out.data(), pool);
    return std::pair(bits.values(), bits_of(out.values()));
  };
  const auto expected = reference([&] { return run(1); });
  for (int threads : {1, 2, 3}) EXPECT_TRUE(run(threads) == expected) << threads << " threads";
}

}  // namespace
}  // namespace fbi::kernels
