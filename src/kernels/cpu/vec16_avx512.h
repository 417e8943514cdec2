#pragma once

#include <immintrin.h>

#include <cstdint>

/// Sixteen lanes in one 512-bit register; vec16_avx2.h offers the same operations with the same
/// roundings.
namespace fbi::kernels {
namespace {

using Floats = __m512;
/// As many sums as multiply-adds are under way at a time, and more.
constexpr int kTileRows = 12;
struct Doubles {
  __m512d low, high;
};

inline __mmask16 first(int n) {
  return static_cast<__mmask16>((1u << n) - 1);
}

inline Floats splat(float x) {
  return _mm512_set1_ps(x);
}
inline Floats load(const float* x) {
  return _mm512_loadu_ps(x);
}
inline void store(float* out, Floats x) {
  _mm512_storeu_ps(out, x);
}
/// The first n lanes, n < 16; the others read as 0.
inline Floats load(const float* x, int n) {
  return _mm512_maskz_loadu_ps(first(n), x);
}
inline void store(float* out, Floats x, int n) {
  _mm512_mask_storeu_ps(out, first(n), x);
}
inline Floats keep_first(Floats x, int n) {
  return _mm512_maskz_mov_ps(first(n), x);
}

inline Floats add(Floats a, Floats b) {
  return _mm512_add_ps(a, b);
}
inline Floats sub(Floats a, Floats b) {
  return _mm512_sub_ps(a, b);
}
inline Floats mul(Floats a, Floats b) {
  return _mm512_mul_ps(a, b);
}
inline Floats div(Floats a, Floats b) {
  return _mm512_div_ps(a, b);
}
inline Floats sqrt(Floats a) {
  return _mm512_sqrt_ps(a);
}
inline Floats abs(Floats a) {
  return _mm512_abs_ps(a);
}
inline Floats fma(Floats a, Floats b, Floats c) {
  return _mm512_fmadd_ps(a, b, c);
}  // ab + c
inline Floats fms(Floats a, Floats b, Floats c) {
  return _mm512_fmsub_ps(a, b, c);
}  // ab - c
inline Floats fnma(Floats a, Floats b, Floats c) {
  return _mm512_fnmadd_ps(a, b, c);
}  // c - ab
/// b where either is NaN.
inline Floats max(Floats a, Floats b) {
  return _mm512_max_ps(a, b);
}
inline Floats min(Floats a, Floats b) {
  return _mm512_min_ps(a, b);
}
inline float max_lane(Floats x) {
  return _mm512_reduce_max_ps(x);
}
/// The sums of lanes j, j + 4, j + 8 and j + 12.
inline __m128 quarter_sum(Floats x) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/// Bit j: lane j >= 0.
inline std::uint32_t nonnegative(Floats x) {
  return _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GE_OQ);
}
/// Changes the sign of the lanes whose bit is 0.
inline Floats with_signs(Floats x, std::uint32_t bits) {
  return _mm512_mask_xor_ps(x, static_cast<__mmask16>(~bits), x, _mm512_set1_ps(-0.0f));
}
/// p · 2^(e - 127), e the lowest 8 bits of t; t's next bit must be 0.
inline Floats scale_by_exponent(Floats p, Floats t) {
  return mul(p, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(t), 23)));
}

inline Doubles zero_doubles() {
  return {_mm512_setzero_pd(), _mm512_setzero_pd()};
}
inline Doubles load(const double* x) {
  return {_mm512_loadu_pd(x), _mm512_loadu_pd(x + 8)};
}
inline void store(double* out, const Doubles& x) {
  _mm512_storeu_pd(out, x.low);
  _mm512_storeu_pd(out + 8, x.high);
}
inline Doubles widen(Floats x) {
  return {_mm512_cvtps_pd(_mm512_castps512_ps256(x)),
          _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1))};
}
inline void accumulate(Doubles& sum, const Doubles& x) {
  sum.low = _mm512_add_pd(sum.low, x.low);
  sum.high = _mm512_add_pd(sum.high, x.high);
}
/// Adds the lanes whose bit is 1; wide = widen(x).
inline void add_where(Doubles& sum, std::uint32_t bits, Floats, const Doubles& wide) {
  sum.low = _mm512_mask_add_pd(sum.low, static_cast<__mmask8>(bits), sum.low, wide.low);
  sum.high = _mm512_mask_add_pd(sum.high, static_cast<__mmask8>(bits >> 8), sum.high, wide.high);
}
/// A square of an fp32 value is exact in double, so fused and separate operations agree.
inline void accumulate_square(Doubles& sum, const Doubles& x) {
  sum.low = _mm512_fmadd_pd(x.low, x.low, sum.low);
  sum.high = _mm512_fmadd_pd(x.high, x.high, sum.high);
}

inline void store_bfloat16(std::uint16_t* out, Floats x) {
  const __m512i u = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF)), odd), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i result = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7FC0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtepi32_epi16(result));
}

constexpr int kTransposeRows = 16;
/// kTransposeRows rows and four columns; each column becomes a row, with its shift.
template <bool shifted>
inline void transpose_four_columns(const float* x, std::int64_t x_row, const float* shift,
                                   float* out, std::int64_t out_row) {
  __m512 rows[4];  // every fourth one in each: inserting from memory takes no shuffle
  for (int i = 0; i < 4; ++i) {
    const auto numbers = [&](int part) { return _mm_loadu_ps(x + (i + 4 * part) * x_row); };
    rows[i] = _mm512_castps128_ps512(numbers(0));
    rows[i] = _mm512_mask_broadcast_f32x4(rows[i], 0x00f0, numbers(1));
    rows[i] = _mm512_mask_broadcast_f32x4(rows[i], 0x0f00, numbers(2));
    rows[i] = _mm512_mask_broadcast_f32x4(rows[i], 0xf000, numbers(3));
  }
  const __m512 a = _mm512_unpacklo_ps(rows[0], rows[2]), b = _mm512_unpackhi_ps(rows[0], rows[2]);
  const __m512 c = _mm512_unpacklo_ps(rows[1], rows[3]), d = _mm512_unpackhi_ps(rows[1], rows[3]);
  const auto store_row = [&](int j, Floats row) {
    store(out + j * out_row, shifted ? add(row, splat(shift[j])) : row);
  };
  store_row(0, _mm512_unpacklo_ps(a, c));
  store_row(1, _mm512_unpackhi_ps(a, c));
  store_row(2, _mm512_unpacklo_ps(b, d));
  store_row(3, _mm512_unpackhi_ps(b, d));
}

}  // namespace
}  // namespace fbi::kernels
