#include <cfloat>
#include <limits>

#include "fbi/core/error.h"
#include "kernels/cuda_support.h"
#include "support/expect_error.h"

namespace fbi::kernels::cuda {
namespace {

using CudaFp8 = OnDevice;

/// The number that a byte stands for (Micikevicius et al. 2022): 1 sign, 4 exponent (bias 7), 3
/// mantissa; no infinity.
double decoded(std::uint8_t byte) {
  const int exponent = byte >> 3 & 15, mantissa = byte & 7;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return byte & 0x80 ? -magnitude : magnitude;
}

/// The nearest of all finite bytes; of two equally near ones the even one.
std::uint8_t nearest(double x) {
  std::uint8_t best = 0;
  double distance = std::numeric_limits<double>::infinity();
  for (int magnitude = 0; magnitude < 0x7F; ++magnitude) {
    const double d = std::abs(decoded(static_cast<std::uint8_t>(magnitude)) - std::abs(x));
    if (d < distance || (d == distance && magnitude % 2 == 0)) {
      distance = d;
      best = static_cast<std::uint8_t>(magnitude);
    }
  }
  return static_cast<std::uint8_t>(best | (std::signbit(x) ? 0x80 : 0));
}

struct Quantized {
  std::vector<std::uint8_t> values;
  std::vector<float> scales;
};

template <class T>
Quantized quantized(const std::vector<T>& x, std::int64_t rows, std::int64_t offset = 0,
                    const ColumnScales& columns = {}) {
  const std::int64_t width = std::ssize(x) / rows;
  std::vector<T> moved(static_cast<std::size_t>(offset), T{});
  moved.insert(moved.end(), x.begin(), x.end());
  const DeviceArray<T> device_x(moved);
  const DeviceArray<std::uint8_t> values(rows * width);
  const DeviceArray<float> scales(rows);
  quantize_rows(device_x.data() + offset, kElement<T>, rows, width, columns, values.data(),
                scales.data(), nullptr);
  return {values.values(), scales.values()};
}

/// Each row with the largest scale that fits, as the nearest numbers.
void expect_nearest(const Quantized& found, const std::vector<float>& held) {
  const std::size_t width = held.size() / found.scales.size();
  for (std::size_t row = 0; row < found.scales.size(); ++row) {
    float top = 0;
    for (std::size_t i = 0; i < width; ++i) top = std::max(top, std::abs(held[row * width + i]));
    ASSERT_EQ(found.scales[row], std::max(top / 448, FLT_MIN)) << "row " << row;
    for (std::size_t i = 0; i < width; ++i) {
      const float value = held[row * width + i] / found.scales[row];
      ASSERT_EQ(found.values[row * width + i], nearest(value))
          << "row " << row << " column " << i << ": " << value;
    }
  }
}

template <class T>
void expect_rows(const std::vector<float>& given, std::int64_t rows, std::int64_t offset = 0) {
  const auto x = converted<T>(given);
  expect_nearest(quantized<T>(x, rows, offset), widened(x));
}

/// Rows of alpha·x, and sums of beta·x: some ten fp32 numbers per thread, and those of 256 threads
/// in a tree.
template <class T>
void expect_rows_for_signs(std::int64_t width, std::int64_t offset) {
  constexpr std::int64_t kRows = 3;
  constexpr double kTolerance = 30 * 0x1p-24;
  const auto x = converted<T>(normals(kRows * width, 3));
  const auto held = widened(x);
  const auto alpha = normals(offset + width, 4), beta = normals(offset + width, 5, 0.1);
  const DeviceArray<float> device_alpha(alpha), device_beta(beta), sums(kRows);
  std::vector<float> scaled;
  for (std::size_t i = 0; i < held.size(); ++i)
    scaled.push_back(held[i] * alpha[static_cast<std::size_t>(offset) + i % width]);
  expect_nearest(
      quantized<T>(x, kRows, offset,
                   {device_alpha.data() + offset, device_beta.data() + offset, sums.data()}),
      scaled);
  const auto found = sums.values();
  for (std::size_t row = 0; row < kRows; ++row) {
    double sum = 0, size = 0;
    for (std::size_t i = 0; i < static_cast<std::size_t>(width); ++i) {
      const double term =
          static_cast<double>(held[row * width + i]) * beta[static_cast<std::size_t>(offset) + i];
      sum += term;
      size += std::abs(term);
    }
    EXPECT_NEAR(found[row], sum, kTolerance * size) << "row " << row;
  }
}

TEST_F(CudaFp8, RowsForSignsTakeScalesOfColumnsOnTheWay) {
  for_each_type([](auto element) {
    using T = decltype(element);
    for (const std::int64_t width : {1, 7, 16, 255, 2048, 4100}) {
      SCOPED_TRACE(width);
      expect_rows_for_signs<T>(width, 0);
      expect_rows_for_signs<T>(width, 1);
    }
  });
}

TEST_F(CudaFp8, RefusesScalesOfColumnsWithoutTheirSums) {
  const DeviceArray<float> x(16), alpha(16);
  test::expect_error<UsageError>(
      [&] {
        quantize_rows(x.data(), Element::kFp32, 1, 16, {.alpha = alpha.data()}, nullptr, nullptr,
                      nullptr);
      },
      "quantize_rows", "alpha, beta and sums");
}

TEST_F(CudaFp8, RowsAreTheNearestNumbersForOddAndEvenShapes) {
  for_each_type([](auto element) {
    using T = decltype(element);
    for (const std::int64_t width : {1, 7, 16, 24, 255, 256, 2048, 2056, 4100}) {
      SCOPED_TRACE(width);
      expect_rows<T>(normals(3 * width, 1), 3);
      expect_rows<T>(normals(3 * width, 2), 3, /*offset=*/1);
    }
  });
}

/// All bytes, the middles between them, and the numbers beside these, at scale 1.
TEST_F(CudaFp8, RoundsToNearestEven) {
  std::vector<float> x = {448};
  for (int byte = 0; byte < 0x7E; ++byte) {
    const auto low = static_cast<float>(decoded(static_cast<std::uint8_t>(byte)));
    const auto high = static_cast<float>(decoded(static_cast<std::uint8_t>(byte + 1)));
    const float middle = (low + high) / 2;
    for (const float value :
         {low, middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)}) {
      x.push_back(value);
      x.push_back(-value);
    }
  }
  expect_rows<float>(x, 1);
}

TEST_F(CudaFp8, RowsOfZerosAndOfTheSmallestNumbers) {
  expect_rows<float>(std::vector<float>(40, 0.0f), 2);
  expect_rows<float>(std::vector<float>(16, 1e-40f), 1);
  expect_rows<float>({FLT_MAX, -FLT_MAX, 1, 0}, 1);
}

}  // namespace
}  // namespace fbi::kernels::cuda
