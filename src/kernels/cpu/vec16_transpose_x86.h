#pragma once

#include <immintrin.h>

#include <cstdint>

/// Beside vec16_avx2.h and vec16_avx512.h: what gains nothing by wide registers.
namespace fbi::kernels {
namespace {

/// Four rows and columns; each column becomes a row, with its shift.
template <bool shifted>
inline void transpose_four(const float* x, std::int64_t x_row, const float* shift, float* out,
                           std::int64_t out_row) {
  __m128 a = _mm_loadu_ps(x), b = _mm_loadu_ps(x + x_row), c = _mm_loadu_ps(x + 2 * x_row),
         d = _mm_loadu_ps(x + 3 * x_row);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  const auto store_row = [&](int j, __m128 row) {
    _mm_storeu_ps(out + j * out_row, shifted ? _mm_add_ps(row, _mm_set1_ps(shift[j])) : row);
  };
  store_row(0, a);
  store_row(1, b);
  store_row(2, c);
  store_row(3, d);
}

}  // namespace
}  // namespace fbi::kernels
