#pragma once

#include <immintrin.h>

/// Sums of lanes for vec16_gemv.h, on top of vec16_avx2.h or vec16_avx512.h.
namespace fbi::kernels {
namespace {

inline __m128 sums_of_lanes(Floats a, Floats b, Floats c, Floats d) {
  return _mm_hadd_ps(_mm_hadd_ps(quarter_sum(a), quarter_sum(b)),
                     _mm_hadd_ps(quarter_sum(c), quarter_sum(d)));
}
inline void store_sums(float* out, const Floats (&x)[4]) {
  _mm_storeu_ps(out, sums_of_lanes(x[0], x[1], x[2], x[3]));
}
inline float sum_of_one(Floats x) {
  return _mm_cvtss_f32(sums_of_lanes(x, x, x, x));
}

}  // namespace
}  // namespace fbi::kernels
