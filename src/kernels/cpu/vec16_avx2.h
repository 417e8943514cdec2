#pragma once

#include <immintrin.h>

#include <cstdint>

/// Sixteen lanes in two 256-bit registers; vec16_avx512.h offers the same operations with the same
/// roundings.
namespace fbi::kernels {
namespace {

struct Floats {
  __m256 low, high;
};
/// With two registers a row they leave four of sixteen.
constexpr int kTileRows = 6;
struct Doubles {
  __m256d part[4];
};

/// Lanes [0, n) set, in two registers.
struct LaneMask {
  __m256i low, high;
};
inline LaneMask first(int n) {
  const __m256i count = _mm256_set1_epi32(n);
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_cmpgt_epi32(count, lane),
          _mm256_cmpgt_epi32(count, _mm256_add_epi32(lane, _mm256_set1_epi32(8)))};
}

inline Floats splat(float x) {
  return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
inline Floats load(const float* x) {
  return {_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)};
}
inline void store(float* out, Floats x) {
  _mm256_storeu_ps(out, x.low);
  _mm256_storeu_ps(out + 8, x.high);
}
/// The first n lanes, n < 16; the others read as 0.
inline Floats load(const float* x, int n) {
  const LaneMask mask = first(n);
  return {_mm256_maskload_ps(x, mask.low), _mm256_maskload_ps(x + 8, mask.high)};
}
inline void store(float* out, Floats x, int n) {
  const LaneMask mask = first(n);
  _mm256_maskstore_ps(out, mask.low, x.low);
  _mm256_maskstore_ps(out + 8, mask.high, x.high);
}
inline Floats keep_first(Floats x, int n) {
  const LaneMask mask = first(n);
  return {_mm256_and_ps(x.low, _mm256_castsi256_ps(mask.low)),
          _mm256_and_ps(x.high, _mm256_castsi256_ps(mask.high))};
}

inline Floats add(Floats a, Floats b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Floats sub(Floats a, Floats b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Floats mul(Floats a, Floats b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Floats div(Floats a, Floats b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
inline Floats sqrt(Floats a) {
  return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)};
}
inline Floats abs(Floats a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
inline Floats fma(Floats a, Floats b, Floats c) {  // ab + c
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Floats fms(Floats a, Floats b, Floats c) {  // ab - c
  return {_mm256_fmsub_ps(a.low, b.low, c.low), _mm256_fmsub_ps(a.high, b.high, c.high)};
}
inline Floats fnma(Floats a, Floats b, Floats c) {  // c - ab
  return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}
/// b where either is NaN.
inline Floats max(Floats a, Floats b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline Floats min(Floats a, Floats b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline float max_lane(Floats x) {
  const __m256 eight = _mm256_max_ps(x.low, x.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
/// The sums of lanes j, j + 4, j + 8 and j + 12.
inline __m128 quarter_sum(Floats x) {
  const __m256 half = _mm256_add_ps(x.low, x.high);
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/// Bit j: lane j >= 0.
inline std::uint32_t nonnegative(Floats x) {
  const __m256 zero = _mm256_setzero_ps();
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(x.low, zero, _CMP_GE_OQ));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(x.high, zero, _CMP_GE_OQ));
  return static_cast<std::uint32_t>(low | high << 8);
}
/// Bit j of sixteen moved to the sign of lane j; what is below the sign is of no meaning.
struct SignBits {
  __m256i low, high;
};
inline SignBits sign_bits(std::uint32_t bits) {
  const __m256i all = _mm256_set1_epi32(static_cast<int>(bits));
  return {_mm256_sllv_epi32(all, _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24)),
          _mm256_sllv_epi32(all, _mm256_setr_epi32(23, 22, 21, 20, 19, 18, 17, 16))};
}
/// Changes the sign of the lanes whose bit is 0.
inline Floats with_signs(Floats x, std::uint32_t bits) {
  const SignBits clear = sign_bits(~bits);
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_xor_ps(x.low, _mm256_and_ps(_mm256_castsi256_ps(clear.low), sign)),
          _mm256_xor_ps(x.high, _mm256_and_ps(_mm256_castsi256_ps(clear.high), sign))};
}
inline __m256 exponent_of(__m256 t) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(t), 23));
}
/// p · 2^(e - 127), e the lowest 8 bits of t; t's next bit must be 0.
inline Floats scale_by_exponent(Floats p, Floats t) {
  return mul(p, {exponent_of(t.low), exponent_of(t.high)});
}

inline Doubles zero_doubles() {
  const __m256d zero = _mm256_setzero_pd();
  return {{zero, zero, zero, zero}};
}
inline Doubles load(const double* x) {
  return {{_mm256_loadu_pd(x), _mm256_loadu_pd(x + 4), _mm256_loadu_pd(x + 8),
           _mm256_loadu_pd(x + 12)}};
}
inline void store(double* out, const Doubles& x) {
  for (int i = 0; i < 4; ++i) _mm256_storeu_pd(out + 4 * i, x.part[i]);
}
inline Doubles widen(Floats x) {
  return {{_mm256_cvtps_pd(_mm256_castps256_ps128(x.low)),
           _mm256_cvtps_pd(_mm256_extractf128_ps(x.low, 1)),
           _mm256_cvtps_pd(_mm256_castps256_ps128(x.high)),
           _mm256_cvtps_pd(_mm256_extractf128_ps(x.high, 1))}};
}
inline void accumulate(Doubles& sum, const Doubles& x) {
  for (int i = 0; i < 4; ++i) sum.part[i] = _mm256_add_pd(sum.part[i], x.part[i]);
}
/// Adds the lanes whose bit is 1; wide = widen(x).
inline void add_where(Doubles& sum, std::uint32_t bits, Floats x, const Doubles&) {
  const SignBits set = sign_bits(bits);
  const __m256 low = _mm256_castsi256_ps(_mm256_srai_epi32(set.low, 31));
  const __m256 high = _mm256_castsi256_ps(_mm256_srai_epi32(set.high, 31));
  accumulate(sum, widen({_mm256_and_ps(x.low, low), _mm256_and_ps(x.high, high)}));
}
/// A square of an fp32 value is exact in double, so fused and separate operations agree.
inline void accumulate_square(Doubles& sum, const Doubles& x) {
  for (int i = 0; i < 4; ++i) sum.part[i] = _mm256_fmadd_pd(x.part[i], x.part[i], sum.part[i]);
}

inline __m256i bfloat16_bits(__m256 x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), odd), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7FC0), nan);
}
inline void store_bfloat16(std::uint16_t* out, Floats x) {
  const __m256i packed = _mm256_packus_epi32(bfloat16_bits(x.low), bfloat16_bits(x.high));
  const __m256i ordered = _mm256_permute4x64_epi64(packed, _MM_SHUFFLE(3, 1, 2, 0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), ordered);
}

constexpr int kTransposeRows = 8;
/// kTransposeRows rows and four columns; each column becomes a row, with its shift.
template <bool shifted>
inline void transpose_four_columns(const float* x, std::int64_t x_row, const float* shift,
                                   float* out, std::int64_t out_row) {
  __m256 rows[4];  // every fourth one in each: inserting from memory takes no shuffle
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_castps128_ps256(_mm_loadu_ps(x + i * x_row));
    rows[i] = _mm256_insertf128_ps(rows[i], _mm_loadu_ps(x + (i + 4) * x_row), 1);
  }
  const __m256 a = _mm256_unpacklo_ps(rows[0], rows[2]), b = _mm256_unpackhi_ps(rows[0], rows[2]);
  const __m256 c = _mm256_unpacklo_ps(rows[1], rows[3]), d = _mm256_unpackhi_ps(rows[1], rows[3]);
  const auto store_row = [&](int j, __m256 row) {
    _mm256_storeu_ps(out + j * out_row,
                     shifted ? _mm256_add_ps(row, _mm256_set1_ps(shift[j])) : row);
  };
  store_row(0, _mm256_unpacklo_ps(a, c));
  store_row(1, _mm256_unpackhi_ps(a, c));
  store_row(2, _mm256_unpacklo_ps(b, d));
  store_row(3, _mm256_unpackhi_ps(b, d));
}

}  // namespace
}  // namespace fbi::kernels
