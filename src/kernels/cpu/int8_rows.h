#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/ask_ahead.h"
#include "kernels/gemv_kernels.h"

/// Int8Product for processors with vectors. The file that includes this one has for
/// sixteen columns Int8Weights load_int8(const std::byte*), Int8Inputs load_int16(const
/// std::int16_t*), Int8Sums of eight lanes of 32 bits that `= {}` makes zero, add_products(sums,
/// weights, inputs), and total(sums), their sum in 64 bits; in kInt8Rows how many rows of different
/// parts of the memory one token takes at a time.
namespace fbi::kernels {
namespace {

// What a lane gets of so many columns: 2^15 - 1 times 127 for each eighth of them.
static_assert(kInt8Columns / 8 * 127 * kMostInt8Input < std::int64_t{1} << 31);

constexpr int kInt8GroupRows = 2, kInt8GroupTokens = 4;

/// `rows` rows that lie `apart` bytes, for `tokens` tokens: y[r * y_apart + t * y_stride].
template <int rows, int tokens>
inline void int8_tile(const std::byte* w, std::int64_t apart, std::int64_t columns,
                      const std::int16_t* q, float* y, std::int64_t y_apart,
                      std::int64_t y_stride) {
  std::int64_t totals[rows][tokens] = {};
  while (columns > 0) {
    const std::int64_t part = columns < kInt8Columns ? columns : kInt8Columns;
    Int8Sums sums[rows][tokens] = {};
    for (std::int64_t i = 0; i < part; i += kPadding, w += kPadding, q += tokens * kPadding) {
      if (i % 64 == 0) {
        for (int r = 0; r < rows; ++r) ask_ahead<rows>(w + r * apart);
      }
      Int8Inputs inputs[tokens];
      for (int t = 0; t < tokens; ++t) inputs[t] = load_int16(q + t * kPadding);
      for (int r = 0; r < rows; ++r) {
        const Int8Weights weights = load_int8(w + r * apart);
        for (int t = 0; t < tokens; ++t) add_products(sums[r][t], weights, inputs[t]);
      }
    }
    for (int r = 0; r < rows; ++r) {
      for (int t = 0; t < tokens; ++t) totals[r][t] += total(sums[r][t]);
    }
    columns -= part;
  }
  for (int r = 0; r < rows; ++r) {
    for (int t = 0; t < tokens; ++t)
      y[r * y_apart + t * y_stride] = static_cast<float>(totals[r][t]);
  }
}

void int8_rows(const std::byte* w, std::int64_t row_stride, std::int64_t columns,
               const std::int16_t* q, std::int64_t rows, float* y) {
  const std::int64_t apart = rows / kInt8Rows;
  for (std::int64_t r = 0; r < apart; ++r) {
    int8_tile<kInt8Rows, 1>(w + r * row_stride, apart * row_stride, columns, q, y + r, apart, 0);
  }
  for (std::int64_t r = kInt8Rows * apart; r < rows; ++r)
    int8_tile<1, 1>(w + r * row_stride, 0, columns, q, y + r, 0, 0);
}

void int8_rows_of_group(const std::byte* w, std::int64_t row_stride, std::int64_t columns,
                        const std::int16_t* q, std::int64_t rows, float* y, std::int64_t y_stride) {
  std::int64_t r = 0;
  for (; r + kInt8GroupRows <= rows; r += kInt8GroupRows) {
    int8_tile<kInt8GroupRows, kInt8GroupTokens>(w + r * row_stride, row_stride, columns, q, y + r,
                                                1, y_stride);
  }
  for (; r < rows; ++r)
    int8_tile<1, kInt8GroupTokens>(w + r * row_stride, 0, columns, q, y + r, 0, y_stride);
}

}  // namespace
}  // namespace fbi::kernels
