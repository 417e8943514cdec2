#include <cmath>

#include "kernels/ref/ref.h"

namespace fbi::kernels::ref {

void transpose(const float* x, std::int64_t x_row, std::int64_t rows, std::int64_t columns,
               const float* shift, float* out, std::int64_t out_row) {
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j)
      out[j * out_row + i] = shift ? x[i * x_row + j] + shift[j] : x[i * x_row + j];
  }
}

void multiply(const SmallProduct& p, bool add_to_c) {
  for (std::int64_t row = 0; row < p.rows; ++row) {
    for (std::int64_t column = 0; column < p.columns; ++column) {
      const float* b = p.b + column / kLanes * p.b_block + column % kLanes;
      float& c = p.c[row * p.c_row + column];
      float sum = add_to_c ? c : 0;
      for (std::int64_t d = 0; d < p.depth; ++d)
        sum = std::fma(p.a[row * p.a_row + d * p.a_depth], b[d * p.b_depth], sum);
      c = sum;
    }
  }
}

double exp_row(float* x, std::int64_t count, float max, float factor) {
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    x[i] = static_cast<float>(std::exp(double{(x[i] - max) * factor}));
    sum += x[i];
  }
  return sum;
}

void softmax_backward_row(float* p, float* dp, std::int64_t count, float inverse_sum, float scale) {
  double mean = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    p[i] *= inverse_sum;
    mean += double{p[i]} * dp[i];
  }
  for (std::int64_t i = 0; i < count; ++i)
    dp[i] = static_cast<float>(p[i] * ((dp[i] - mean) * scale));
}

}  // namespace fbi::kernels::ref
