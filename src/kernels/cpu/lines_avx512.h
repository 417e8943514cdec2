#pragma once

#include <immintrin.h>

#include "kernels/cpu/vec16_token_lanes.h"

/// Lines of vec16_token_lanes.h and what makes them and rows' words.
namespace fbi::kernels {
namespace {

/// Entries' places as bytes, in units of the eight that an address scales by: of two tables they
/// come out of one register without a shift. The last one may have fewer inputs; the signs of
/// others are 0.
class RowEntries {
 public:
  explicit RowEntries(std::uint64_t signs)
      : bytes_(_pdep_u64(signs, kPlaces)), rest_(_pdep_u64(signs >> 8 * kTableInputs, kPlaces)) {}
  template <int t>
  std::uint64_t next() {
    if constexpr (t == 8) {
      bytes_ = rest_;
    } else if constexpr (t > 0 && t % 2 == 0) {
      bytes_ >>= 16;
    }
    asm("" : "+Q"(bytes_));  // else GCC would shift each byte out of the first one
    return 8 * static_cast<std::uint64_t>(static_cast<std::uint8_t>(bytes_ >> t % 2 * 8));
  }

 private:
  static constexpr std::uint64_t kPlaces = 0x0101010101010101 * (kEntryOffsets / 8);
  std::uint64_t bytes_, rest_;
};

/// sums += factors · whole of sixteen tokens.
inline void add_scaled_sixteen(__m512 whole, const float* factors, float* sums) {
  _mm512_storeu_ps(sums, _mm512_fmadd_ps(_mm512_load_ps(factors), whole, _mm512_loadu_ps(sums)));
}

/// fp32 sums.
struct ExactLine {
  static constexpr int kTokens = 16;
  using Entries = RowEntries;
  __m512 sums;

  void read(const std::byte* from) { sums = _mm512_load_ps(from); }
  void store(std::byte* to) const { _mm512_store_ps(to, sums); }
  void set(__m512i bits) { sums = _mm512_castsi512_ps(bits); }
  friend ExactLine operator+(const ExactLine& a, const ExactLine& b) {
    return {_mm512_add_ps(a.sums, b.sums)};
  }
  friend ExactLine operator-(const ExactLine& a, const ExactLine& b) {
    return {_mm512_sub_ps(a.sums, b.sums)};
  }
  template <int table>
  void add(const std::byte* tables, std::uint64_t offset) {
    sums = _mm512_add_ps(sums, _mm512_load_ps(tables + offset + table));
    asm("" : "+v"(sums));  // GCC would read several entries before it adds them
  }
  void add_scaled(const float* factors, float* out) const {
    add_scaled_sixteen(sums, factors, out);
  }
};

/// 16-bit sums.
struct Int8Line {
  static constexpr int kTokens = 32;
  using Entries = RowEntries;
  __m512i sums;

  void read(const std::byte* from) { sums = _mm512_load_si512(from); }
  void store(std::byte* to) const { _mm512_store_si512(to, sums); }
  void set(__m512i bits) { sums = bits; }
  friend Int8Line operator+(const Int8Line& a, const Int8Line& b) {
    return {_mm512_add_epi16(a.sums, b.sums)};
  }
  friend Int8Line operator-(const Int8Line& a, const Int8Line& b) {
    return {_mm512_sub_epi16(a.sums, b.sums)};
  }
  template <int table>
  void add(const std::byte* tables, std::uint64_t offset) {
    sums = _mm512_add_epi16(sums, _mm512_load_si512(tables + offset + table));
    asm("" : "+v"(sums));  // and would form trees of additions
  }
  void add_scaled(const float* factors, float* out) const {
    const __m512i low = _mm512_cvtepi16_epi32(_mm512_castsi512_si256(sums));
    const __m512i high = _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(sums, 1));
    add_scaled_sixteen(_mm512_cvtepi32_ps(low), factors, out);
    add_scaled_sixteen(_mm512_cvtepi32_ps(high), factors + 16, out + 16);
  }
};

/// Transposes n rows of n numbers in each quarter of registers.
template <int n>
inline void transpose_quarters(__m512i (&x)[n]) {
  for (int step = 1; step < n; step *= 2) {
    __m512i y[n];
    for (int k = 0; k < n / 2; ++k) {
      const __m512i a = x[k], b = x[k + n / 2];
      y[2 * k] = n == 4 ? _mm512_unpacklo_epi32(a, b) : _mm512_unpacklo_epi16(a, b);
      y[2 * k + 1] = n == 4 ? _mm512_unpackhi_epi32(a, b) : _mm512_unpackhi_epi16(a, b);
    }
    for (int k = 0; k < n; ++k) x[k] = y[k];
  }
}

template <int inputs, class Line>
inline void side_by_side(const std::byte* const* tokens, std::int64_t offset, Line* lines) {
  constexpr int kAtOnce = Line::kTokens / 4;  // numbers of 16 bytes
  for (int i = 0; i < inputs; i += kAtOnce, offset += 16) {
    const auto numbers = [&](int t) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(tokens[t] + offset));
    };
    __m512i x[kAtOnce];
    for (int t = 0; t < kAtOnce; ++t) {
      x[t] = _mm512_castsi128_si512(numbers(t));
      x[t] = _mm512_inserti32x4(x[t], numbers(t + kAtOnce), 1);
      x[t] = _mm512_inserti32x4(x[t], numbers(t + 2 * kAtOnce), 2);
      x[t] = _mm512_inserti32x4(x[t], numbers(t + 3 * kAtOnce), 3);
    }
    transpose_quarters(x);
    for (int k = 0; k < kAtOnce; ++k) lines[i + k].set(x[k]);
  }
}

inline __m512i eight_signs(const std::uint32_t* of_rows) {
  return _mm512_cvtepu32_epi64(_mm256_load_si256(reinterpret_cast<const __m256i*>(of_rows)));
}
inline __m512i eight_signs(const std::uint16_t* of_rows) {
  return _mm512_cvtepu16_epi64(_mm_load_si128(reinterpret_cast<const __m128i*>(of_rows)));
}

/// Words of rows from `steps` numbers each, of whose bits `inputs` are signs and the others 0.
template <class Signs, int inputs, int steps>
inline void words_of_numbers(const std::byte* signs, std::int64_t stride,
                             std::uint64_t (&words)[kWordRows]) {
  for (int row = 0; row < kWordRows; row += 8) {
    __m512i word = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int k = 0; k < steps; ++k) {
      const auto* of_rows = reinterpret_cast<const Signs*>(signs + k * stride) + row;
      word = _mm512_or_si512(word, _mm512_slli_epi64(eight_signs(of_rows), inputs * k));
    }
    _mm512_store_si512(words + row, word);
  }
}

}  // namespace
}  // namespace fbi::kernels
