#include "fbi/exporter/fold.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/core/random.h"
#include "support/expect_error.h"

namespace fbi::exporter {
namespace {

using ::fbi::test::expect_error;
using formats::DType;

/// Rounds by looking at all fp16 (or bf16) numbers: exact, and shares nothing with the code under
/// test. Bit patterns of positive numbers are in the order of their values.
class RoundingTable {
 public:
  static RoundingTable fp16() { return RoundingTable(10, 15, 0x7c00); }
  static RoundingTable bf16() { return RoundingTable(7, 127, 0x7f80); }

  std::uint16_t round(double value) const {
    const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const double magnitude = std::abs(value);
    const auto above = std::ranges::lower_bound(values_, magnitude) - values_.begin();
    if (above == static_cast<std::ptrdiff_t>(values_.size())) return sign | infinity_;
    if (above == 0) return sign;
    const double to_above = values_[above] - magnitude, to_below = magnitude - values_[above - 1];
    const bool up = to_above < to_below || (to_above == to_below && above % 2 == 0);
    return sign | static_cast<std::uint16_t>(up ? above : above - 1);
  }
  double value(std::uint16_t bits) const {
    return (bits & 0x8000 ? -1 : 1) * values_[bits & 0x7fff];
  }

 private:
  RoundingTable(int mantissa_bits, int bias, int infinity)
      : infinity_(static_cast<std::uint16_t>(infinity)) {
    for (int bits = 0; bits < infinity; ++bits) {
      const int exponent = bits >> mantissa_bits, mantissa = bits & ((1 << mantissa_bits) - 1);
      const double significand =
          exponent == 0 ? mantissa : mantissa + std::ldexp(1.0, mantissa_bits);
      values_.push_back(std::ldexp(significand, std::max(exponent, 1) - bias - mantissa_bits));
    }
  }
  std::uint16_t infinity_;
  std::vector<double> values_;
};

struct Case {
  kernels::MatrixShape shape;
  kernels::ScaleStrides strides;
  std::vector<float> latent, scale, shift;
  BinarizedMatrix matrix() const { return {shape, strides, latent, scale, shift}; }
};

/// Magnitudes over the whole range of fp16, subnormals included, and zeros of both signs among the
/// latent weights.
Case make_case(kernels::ScaleStrides strides, std::uint64_t seed) {
  Case c{{13, 37}, strides, {}, {}, {}};
  RandomStream random(seed, 0);
  const auto number = [&] {
    const double magnitude = std::exp2(-30 + 40 * random.next_double());
    return static_cast<float>(random.next_below(2) ? magnitude : -magnitude);
  };
  for (int i = 0; i < 13 * 37; ++i) c.latent.push_back(number());
  c.latent[5] = 0.0f;
  c.latent[6] = -0.0f;
  c.latent[40] = 0x1p-25f;
  c.latent[41] = -0x1p-25f;
  c.latent[42] = std::nextafter(0x1p-25f, 1.0f);
  for (int i = 0; i < strides.count(13, 37); ++i) {
    c.scale.push_back(number());
    // Close pairs cancel, far ones test the rounding of the sum.
    c.shift.push_back(i % 3 ? number() : c.scale.back() * (1 + 0.01f * static_cast<float>(i % 7)));
  }
  return c;
}

const std::vector<kernels::ScaleStrides> kPatterns = {kernels::ScaleStrides::per_column(),
                                                      kernels::ScaleStrides::per_row(),
                                                      kernels::ScaleStrides::single()};

template <class T>
std::vector<T> folded(const Case& c, const Folding& folding) {
  std::vector<T> out(c.latent.size());
  fold(c.matrix(), folding, std::as_writable_bytes(std::span(out)));
  return out;
}

template <class T, class Expected>
void expect_fold(const Folding& folding, Expected expected) {
  for (const auto strides : kPatterns) {
    for (std::uint64_t seed = 0; seed < 40; ++seed) {
      const Case c = make_case(strides, seed);
      const std::vector<T> out = folded<T>(c, folding);
      for (std::int64_t o = 0; o < 13; ++o) {
        for (std::int64_t i = 0; i < 37; ++i) {
          const std::int64_t k = o * strides.row + i * strides.column;
          ASSERT_EQ(out[o * 37 + i], expected(c.latent[o * 37 + i], c.scale[k], c.shift[k]))
              << "[" << o << ", " << i << "], alpha " << c.scale[k] << ", beta " << c.shift[k];
        }
      }
    }
  }
}

TEST(FoldTest, Fp16RoundsScaleAndShiftBeforeTheSum) {
  const RoundingTable fp16 = RoundingTable::fp16();
  expect_fold<std::uint16_t>({DType::kF16}, [&](float latent, float scale, float shift) {
    const double alpha = fp16.value(fp16.round(scale)), beta = fp16.value(fp16.round(shift));
    return fp16.round(latent >= 0 ? beta + alpha : beta - alpha);  // exact in double
  });
}

TEST(FoldTest, PublishedFp16ZerosLeaveTheShiftAlone) {
  const RoundingTable fp16 = RoundingTable::fp16();
  expect_fold<std::uint16_t>({DType::kF16, true}, [&](float latent, float scale, float shift) {
    const double alpha = fp16.value(fp16.round(scale)), beta = fp16.value(fp16.round(shift));
    const double weight = fp16.value(fp16.round(latent));
    const int sign = weight > 0 ? 1 : weight < 0 ? -1 : 0;
    return sign == 0 ? fp16.round(shift) : fp16.round(beta + sign * alpha);
  });
}

TEST(FoldTest, Bf16RoundsTheFp32SumOnce) {
  const RoundingTable bf16 = RoundingTable::bf16();
  expect_fold<std::uint16_t>({DType::kBF16}, [&](float latent, float scale, float shift) {
    const float weight = latent >= 0 ? shift + scale : shift - scale;
    return bf16.round(weight);
  });
}

TEST(FoldTest, Fp32IsThePlainSum) {
  expect_fold<float>({DType::kF32}, [](float latent, float scale, float shift) {
    return latent >= 0 ? shift + scale : shift - scale;
  });
}

TEST(FoldTest, ExactZerosCountAsPlus) {
  const Case c = {{1, 4}, kernels::ScaleStrides::single(), {0.0f, -0.0f, 1, -1}, {0.5f}, {0.25f}};
  EXPECT_EQ(folded<float>(c, {DType::kF32}), (std::vector<float>{0.75f, 0.75f, 0.75f, -0.25f}));
}

TEST(FoldTest, CountsZeros) {
  const float just_above = std::nextafter(0x1p-25f, 1.0f);
  const std::vector<float> latent = {0.0f,       -0.0f,       0x1p-25f, -0x1p-25f,
                                     just_above, -just_above, 1e-40f,   0.02f};
  const ZeroCounts zeros = count_zeros(latent);
  EXPECT_EQ(zeros.exact, 2);
  EXPECT_EQ(zeros.fp16, 5);
}

TEST(FoldTest, CastRoundsToNearestEven) {
  const RoundingTable fp16 = RoundingTable::fp16(), bf16 = RoundingTable::bf16();
  std::vector<float> values = {0.0f, -0.0f, 1.0f, 65504.0f, 2049.0f, 2051.0f, 0x1p-24f, 0x1p-25f};
  RandomStream random(7, 0);
  for (int i = 0; i < 5000; ++i) {
    values.push_back(static_cast<float>((random.next_double() - 0.5) *
                                        std::exp2(-28 + 43 * random.next_double())));
  }
  std::vector<std::uint16_t> out(values.size());
  cast(values, DType::kF16, std::as_writable_bytes(std::span(out)));
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_EQ(out[i], fp16.round(values[i]));
  cast(values, DType::kBF16, std::as_writable_bytes(std::span(out)));
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_EQ(out[i], bf16.round(values[i]));
  std::vector<float> same(values.size());
  cast(values, DType::kF32, std::as_writable_bytes(std::span(same)));
  EXPECT_EQ(std::memcmp(same.data(), values.data(), same.size() * sizeof(float)), 0);
}

TEST(FoldTest, OverflowLimitIsWhereInfinityBegins) {
  const auto becomes_infinite = [](DType dtype, float value) {
    std::uint16_t bits = 0;
    cast({&value, 1}, dtype, std::as_writable_bytes(std::span(&bits, 1)));
    return bits == (dtype == DType::kF16 ? 0x7c00 : 0x7f80);
  };
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    const float limit = overflow_limit(dtype);
    EXPECT_TRUE(becomes_infinite(dtype, limit));
    EXPECT_FALSE(becomes_infinite(dtype, std::nextafter(limit, 0.0f)));
  }
  EXPECT_TRUE(std::isinf(overflow_limit(DType::kF32)));
}

TEST(FoldTest, DtypeNames) {
  EXPECT_EQ(dtype_from_name("fp16"), DType::kF16);
  EXPECT_EQ(dtype_from_name("bf16"), DType::kBF16);
  EXPECT_EQ(dtype_from_name("fp32"), DType::kF32);
  EXPECT_EQ(torch_dtype_name(DType::kF16), "float16");
  EXPECT_EQ(torch_dtype_name(DType::kBF16), "bfloat16");
  EXPECT_EQ(torch_dtype_name(DType::kF32), "float32");
  expect_error<UsageError>([] { dtype_from_name("fp8"); }, "'fp8'", "fp16, bf16 or fp32");
}

TEST(FoldTest, ImpossibleOptions) {
  expect_error<UsageError>([] { validate({DType::kI8}); }, "found I8");
  expect_error<UsageError>([] { validate({DType::kBF16, true}); }, "published_fp16_zeros", "BF16");
  validate({DType::kF16, true});
}

}  // namespace
}  // namespace fbi::exporter
