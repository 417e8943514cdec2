#pragma once

#include "kernels/cpu/unrolled.h"
#include "kernels/cpu/vec16_loss.h"

/// Products and softmax rows of attention; cpu_kernels.h has the formulas.
namespace fbi::kernels {
namespace {

template <bool shifted>
void transpose_with(const float* x, std::int64_t x_row, std::int64_t rows, std::int64_t columns,
                    const float* shift, float* out, std::int64_t out_row) {
  const std::int64_t whole_rows = rows / kTransposeRows * kTransposeRows;
  const std::int64_t whole_columns = columns / 4 * 4;
  for (std::int64_t i = 0; i < whole_rows; i += kTransposeRows) {
    for (std::int64_t j = 0; j < whole_columns; j += 4) {
      transpose_four_columns<shifted>(x + i * x_row + j, x_row, shifted ? shift + j : nullptr,
                                      out + j * out_row + i, out_row);
    }
  }
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = i < whole_rows ? whole_columns : 0; j < columns; ++j) {
      out[j * out_row + i] = shifted ? x[i * x_row + j] + shift[j] : x[i * x_row + j];
    }
  }
}

void transpose(const float* x, std::int64_t x_row, std::int64_t rows, std::int64_t columns,
               const float* shift, float* out, std::int64_t out_row) {
  shift ? transpose_with<true>(x, x_row, rows, columns, shift, out, out_row)
        : transpose_with<false>(x, x_row, rows, columns, shift, out, out_row);
}

/// Rows of c by at most 16 columns stay in registers while depth passes.
template <int rows, bool add_to_c, class Lanes>
inline void multiply_tile(const SmallProduct& p, const float* a, const float* b, float* c,
                          Lanes lanes) {
  const std::int64_t a_row = p.a_row, c_row = p.c_row;
  Floats sum[rows];
  unrolled<rows>([&](auto r) { sum[r] = add_to_c ? load(c + r * c_row, lanes) : splat(0); });
  for (std::int64_t d = 0; d < p.depth; ++d, a += p.a_depth, b += p.b_depth) {
    const Floats x = load(b, lanes);
    unrolled<rows>([&](auto r) { sum[r] = fma(splat(a[r * a_row]), x, sum[r]); });
  }
  unrolled<rows>([&](auto r) { store(c + r * c_row, sum[r], lanes); });
}

/// The rows from `row` on, at most `rows` of them.
template <int rows, bool add_to_c, class Lanes>
inline void multiply_last_rows(const SmallProduct& p, std::int64_t row, const float* b, float* c,
                               Lanes lanes) {
  if constexpr (rows > 0) {
    if (p.rows - row < rows) return multiply_last_rows<rows - 1, add_to_c>(p, row, b, c, lanes);
    multiply_tile<rows, add_to_c>(p, p.a + row * p.a_row, b, c + row * p.c_row, lanes);
  }
}

template <bool add_to_c>
void multiply_all(const SmallProduct& p) {
  for_lanes(p.columns, [&](std::int64_t column, auto lanes) {
    const float* b = p.b + column / kLanes * p.b_block;
    float* c = p.c + column;
    std::int64_t row = 0;
    for (; row + kTileRows <= p.rows; row += kTileRows) {
      multiply_tile<kTileRows, add_to_c>(p, p.a + row * p.a_row, b, c + row * p.c_row, lanes);
    }
    multiply_last_rows<kTileRows - 1, add_to_c>(p, row, b, c, lanes);
  });
}

void multiply(const SmallProduct& p, bool add_to_c) {
  add_to_c ? multiply_all<true>(p) : multiply_all<false>(p);
}

double exp_row(float* x, std::int64_t count, float max, float factor) {
  return sum_exp_of(x, count, max, factor,
                    [x](std::int64_t i, Floats e, auto lanes) { store(x + i, e, lanes); });
}

void softmax_backward_row(float* p, float* dp, std::int64_t count, float inverse_sum, float scale) {
  Doubles sum = zero_doubles();
  for_sum_blocks(count, [&](std::int64_t first, std::int64_t size) {
    Floats partial = splat(0);
    for_lanes(size, [&](std::int64_t i, auto lanes) {
      const Floats probability = mul(load(p + first + i, lanes), splat(inverse_sum));
      store(p + first + i, probability, lanes);
      // Lanes beyond a part read as 0.
      partial = fma(probability, load(dp + first + i, lanes), partial);
    });
    accumulate(sum, widen(partial));
  });
  const Floats mean = splat(static_cast<float>(sum_of_lanes(sum)));
  for_lanes(count, [&](std::int64_t i, auto lanes) {
    const Floats difference = mul(sub(load(dp + i, lanes), mean), splat(scale));
    store(dp + i, mul(load(p + i, lanes), difference), lanes);
  });
}

}  // namespace
}  // namespace fbi::kernels
