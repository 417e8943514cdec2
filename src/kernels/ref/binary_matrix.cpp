#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/ref/ref.h"

namespace fbi::kernels::ref {
namespace {

float effective(const BinaryRow& row, std::int64_t i) {
  const std::int64_t k = row.per_column ? i : 0;
  return with_sign(row.bits, i, row.alpha[k]) + row.beta[k];
}

/// Rounded to nearest even; NaN becomes 0x7FC0, subnormals are kept.
std::uint16_t to_bfloat16(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (u + 0x7FFF + (u >> 16 & 1)) >> 16;
  return std::isnan(x) ? 0x7FC0 : static_cast<std::uint16_t>(rounded);
}

double sum_of_lanes(const double (&lanes)[kLanes]) {
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return sum;
}

}  // namespace

void pack_row(const float* latent, std::int64_t columns, std::uint8_t* bits) {
  std::fill_n(bits, (columns + 7) / 8, std::uint8_t{0});
  for (std::int64_t i = 0; i < columns; ++i) {
    bits[i / 8] |= static_cast<std::uint8_t>((latent[i] >= 0) << (i % 8));
  }
}

void effective_row(const BinaryRow& row, float* out) {
  for (std::int64_t i = 0; i < row.columns; ++i) out[i] = effective(row, i);
}

void effective_row_bf16(const BinaryRow& row, std::uint16_t* out) {
  for (std::int64_t i = 0; i < row.columns; ++i) out[i] = to_bfloat16(effective(row, i));
}

double sum_of_squares(const float* x, std::int64_t count) {
  double lanes[kLanes] = {};
  for (std::int64_t i = 0; i < count; ++i) lanes[i % kLanes] += double{x[i]} * x[i];
  return sum_of_lanes(lanes);
}

GradientSums gradient_row_sums(const float* raw_grad, const std::uint8_t* bits,
                               std::int64_t columns) {
  double positive[kLanes] = {}, sum[kLanes] = {}, squares[kLanes] = {};
  for (std::int64_t i = 0; i < columns; ++i) {
    const double g = raw_grad[i];
    if (sign_bit(bits, i)) positive[i % kLanes] += g;
    sum[i % kLanes] += g;
    squares[i % kLanes] += g * g;
  }
  return {sum_of_lanes(positive), sum_of_lanes(sum), sum_of_lanes(squares)};
}

void gradient_column_sums(const GradientBlock& block, double* sums) {
  const std::int64_t columns = block.columns;
  for (std::int64_t o = 0; o < block.rows; ++o) {
    const float* raw_grad = block.raw_grad + o * columns;
    const std::uint8_t* bits = block.bits + o * ((columns + 7) / 8);
    for (std::int64_t i = 0; i < columns; ++i) {
      const double g = raw_grad[i];
      if (sign_bit(bits, i)) sums[i] += g;
      sums[columns + i] += g;
      sums[2 * columns + i] += g * g;
    }
  }
}

}  // namespace fbi::kernels::ref
