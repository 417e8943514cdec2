#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/formats/safetensors.h"
#include "formats/tensors.h"
#include "support/expect_error.h"

namespace fbi::formats {
namespace {

using test::expect_error;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// binary16 by its definition, in arithmetic that is exact in a double.
double half_value(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
  const double magnitude = exponent == 31  ? std::numeric_limits<double>::infinity()
                           : exponent == 0 ? std::ldexp(fraction, -24)
                                           : std::ldexp(1024 + fraction, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

bool is_half_nan(std::uint16_t bits) {
  return (bits & 0x7fff) > 0x7c00;
}

TEST(DTypes, NamesAndSizesInvert) {
  const std::vector<std::pair<DType, std::int64_t>> sizes{
      {DType::kF64, 8}, {DType::kF32, 4}, {DType::kF16, 2}, {DType::kBF16, 2}, {DType::kI64, 8},
      {DType::kI32, 4}, {DType::kI16, 2}, {DType::kI8, 1},  {DType::kU8, 1},   {DType::kBool, 1}};
  for (const auto& [dtype, bytes] : sizes) {
    EXPECT_EQ(size_of(dtype), bytes);
    EXPECT_EQ(dtype_from_string(to_string(dtype)), dtype);
  }
  EXPECT_EQ(to_string(DType::kBF16), "BF16");
  EXPECT_EQ(to_string(DType::kBool), "BOOL");
  EXPECT_EQ(dtype_from_string("f32"), std::nullopt);
  EXPECT_EQ(dtype_from_string(""), std::nullopt);
}

TEST(Half, AllValuesDecodeByDefinitionAndRoundTrip) {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const float value = half_to_float(bits);
    ASSERT_EQ(std::isnan(value), is_half_nan(bits)) << i;
    ASSERT_EQ(std::signbit(value), (bits & 0x8000) != 0) << i;
    if (!is_half_nan(bits)) ASSERT_EQ(static_cast<double>(value), half_value(bits)) << i;
    ASSERT_EQ(float_to_half(value), bits) << i;
  }
}

TEST(Half, RoundsToNearestEvenAroundEveryMidpoint) {
  for (std::uint32_t i = 0; i < 0x7c00; ++i) {
    const auto low = static_cast<std::uint16_t>(i), high = static_cast<std::uint16_t>(i + 1);
    // Above the largest half stands 65536, as if the exponent went on.
    const double above = high == 0x7c00 ? 65536.0 : half_value(high);
    const auto middle = static_cast<float>((half_value(low) + above) / 2);  // exact: 12 bits
    const std::uint16_t even = low % 2 == 0 ? low : high;
    ASSERT_EQ(float_to_half(middle), even) << i;
    ASSERT_EQ(float_to_half(std::nextafter(middle, 0.0f)), low) << i;
    ASSERT_EQ(float_to_half(std::nextafter(middle, kInfinity)), high) << i;
    ASSERT_EQ(float_to_half(-middle), even | 0x8000) << i;
  }
}

TEST(Half, Extremes) {
  EXPECT_EQ(float_to_half(0.0f), 0x0000);
  EXPECT_EQ(float_to_half(-0.0f), 0x8000);
  EXPECT_EQ(float_to_half(65504.0f), 0x7bff);
  EXPECT_EQ(float_to_half(65519.99f), 0x7bff);
  EXPECT_EQ(float_to_half(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_half(std::numeric_limits<float>::max()), 0x7c00);
  EXPECT_EQ(float_to_half(-kInfinity), 0xfc00);
  EXPECT_EQ(float_to_half(0x1p-25f), 0x0000) << "half of the smallest subnormal ties to even";
  EXPECT_EQ(float_to_half(0x1.000002p-25f), 0x0001);
  EXPECT_EQ(float_to_half(std::numeric_limits<float>::denorm_min()), 0x0000);
  // A NaN whose upper fraction bits are zero may not become infinity.
  EXPECT_EQ(float_to_half(std::bit_cast<float>(0x7f800001u)), 0x7e00);
  EXPECT_EQ(float_to_half(std::bit_cast<float>(0xff800001u)), 0xfe00);
}

TEST(BFloat16, AllValuesRoundTrip) {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    ASSERT_EQ(float_to_bfloat16(bfloat16_to_float(bits)), bits) << i;
  }
}

TEST(BFloat16, RoundsToNearestEven) {
  EXPECT_EQ(bfloat16_to_float(0x3f80), 1.0f);
  const auto rounded = [](std::uint32_t bits) {
    return float_to_bfloat16(std::bit_cast<float>(bits));
  };
  EXPECT_EQ(rounded(0x3f807fffu), 0x3f80);
  EXPECT_EQ(rounded(0x3f808000u), 0x3f80) << "tie to even, down";
  EXPECT_EQ(rounded(0x3f808001u), 0x3f81);
  EXPECT_EQ(rounded(0x3f818000u), 0x3f82) << "tie to even, up";
  EXPECT_EQ(rounded(0x3fffffffu), 0x4000) << "carry into the exponent";
  EXPECT_EQ(rounded(0x7f7fffffu), 0x7f80) << "overflow to infinity";
  EXPECT_EQ(rounded(0xff7fffffu), 0xff80);
  EXPECT_EQ(rounded(0x00008000u), 0x0000) << "subnormal tie";
  EXPECT_EQ(rounded(0x00008001u), 0x0001);
  EXPECT_EQ(rounded(0x80000001u), 0x8000);
  EXPECT_EQ(rounded(0x7f800001u), 0x7fc0) << "NaN stays NaN";
  EXPECT_EQ(rounded(0xffffffffu), 0xffff);
}

TEST(ToFloat, ConvertsEachFloatingType) {
  EXPECT_EQ(float_values(OwnedTensor("a", DType::kF64, {2}, std::vector<double>{0.1, -2}).view()),
            (std::vector<float>{0.1f, -2}));
  EXPECT_EQ(float_values(floats("b", {0.1f, -2}).view()), (std::vector<float>{0.1f, -2}));
  EXPECT_EQ(
      float_values(
          OwnedTensor("c", DType::kF16, {2}, std::vector<std::uint16_t>{0x3c00, 0x0001}).view()),
      (std::vector<float>{1, 0x1p-24f}));
  EXPECT_EQ(
      float_values(
          OwnedTensor("d", DType::kBF16, {2}, std::vector<std::uint16_t>{0x3f80, 0xc000}).view()),
      (std::vector<float>{1, -2}));
  EXPECT_TRUE(
      float_values(OwnedTensor("e", DType::kF32, {0}, std::vector<float>{}).view()).empty());
}

TEST(ToFloat, ReadsUnalignedBytes) {
  const std::vector<float> values{1.5f, -2.5f};
  std::vector<std::byte> bytes(1 + sizeof(float) * 2);
  std::memcpy(bytes.data() + 1, values.data(), sizeof(float) * 2);
  EXPECT_EQ(float_values({"x", DType::kF32, {2}, std::span(bytes).subspan(1)}), values);
}

TEST(ToFloat, Refusals) {
  std::vector<float> out(2);
  const OwnedTensor integers("ids", DType::kI32, {2}, std::vector<std::int32_t>{1, 2});
  expect_error<DataError>([&] { to_float(integers.view(), out); }, "\"ids\"", "floating point",
                          "found I32");
  expect_error<UsageError>(
      [&] {
        to_float(floats("w", {1, 2, 3}).view(), out);
      },
      "\"w\"", "room for 3 values, found 2");
}

}  // namespace
}  // namespace fbi::formats
