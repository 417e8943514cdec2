#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

/// What int8_rows.h needs, of AVX2: one instruction multiplies sixteen pairs of 16 bits and adds
/// neighbours in 32.
namespace fbi::kernels {
namespace {

using Int8Weights = __m256i;
using Int8Inputs = __m256i;
using Int8Sums = __m256i;

inline Int8Weights load_int8(const std::byte* w) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w)));
}
inline Int8Inputs load_int16(const std::int16_t* q) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q));
}
inline void add_products(Int8Sums& sums, Int8Weights weights, Int8Inputs inputs) {
  sums = _mm256_add_epi32(sums, _mm256_madd_epi16(weights, inputs));
}
inline std::int64_t total(Int8Sums sums) {
  const __m256i pairs = _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(sums)),
                                         _mm256_cvtepi32_epi64(_mm256_extracti128_si256(sums, 1)));
  const __m128i both =
      _mm_add_epi64(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  return _mm_cvtsi128_si64(both) + _mm_extract_epi64(both, 1);
}

}  // namespace
}  // namespace fbi::kernels
