#pragma once

#include <immintrin.h>

#include "kernels/cpu/vec16_token_lanes.h"

/// Lines of vec16_token_lanes.h and what makes them and rows' words.
namespace fbi::kernels {
namespace {

/// Entries' places, rotated out of the signs: depositing bits takes long on some processors without
/// AVX-512.
class RowEntries {
 public:
  explicit RowEntries(std::uint64_t signs) : signs_(signs) {}
  template <int t>
  std::uint64_t next() const {
    // To the right; none is 0. Not std::rotr: a function of a library must not have these flags.
    constexpr int kRotation = (t * kTableInputs - kLineShift) & 63;
    // The last of 64 inputs' tables has four, and the fifth bit is the first one of the word.
    constexpr std::uint64_t kBeyond = (t + 1) * kTableInputs > 64 ? 1 << (kLineShift + 4) : 0;
    return (signs_ >> kRotation | signs_ << (64 - kRotation)) & (kEntryOffsets - kBeyond);
  }

 private:
  std::uint64_t signs_;
};

/// A cache line of tokens' sums in two registers, low of the first half of the tokens.
struct Registers {
  __m256i low, high;

  void read(const std::byte* from) {
    const auto* parts = reinterpret_cast<const __m256i*>(from);
    low = _mm256_load_si256(parts);
    high = _mm256_load_si256(parts + 1);
  }
  void store(std::byte* to) const {
    auto* parts = reinterpret_cast<__m256i*>(to);
    _mm256_store_si256(parts, low);
    _mm256_store_si256(parts + 1, high);
  }
};

/// What additions from memory may read.
using Tables = std::byte[kMaxTables * kTableEntries * kLineBytes];

/// sums += factors · whole of eight tokens.
inline void add_scaled_eight(__m256i whole, const float* factors, float* sums) {
  const __m256 factor = _mm256_load_ps(factors);
  _mm256_storeu_ps(sums, _mm256_fmadd_ps(factor, _mm256_cvtepi32_ps(whole), _mm256_loadu_ps(sums)));
}

/// 32-bit sums. Additions from memory are written out: GCC would form trees of them.
struct ExactLine : Registers {
  static constexpr int kTokens = 16;
  using Entries = RowEntries;

  friend ExactLine operator+(const ExactLine& a, const ExactLine& b) {
    return {{_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}};
  }
  friend ExactLine operator-(const ExactLine& a, const ExactLine& b) {
    return {{_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)}};
  }
  template <int table>
  void add(const std::byte* tables, std::uint64_t offset) {
    asm("vpaddd %c3(%1,%2), %0, %0"
        : "+x"(low)
        : "r"(tables), "r"(offset), "i"(table), "m"(*reinterpret_cast<const Tables*>(tables)));
    asm("vpaddd %c3(%1,%2), %0, %0"
        : "+x"(high)
        : "r"(tables), "r"(offset), "i"(table + 32), "m"(*reinterpret_cast<const Tables*>(tables)));
  }
  void add_scaled(const float* factors, float* sums) const {
    add_scaled_eight(low, factors, sums);
    add_scaled_eight(high, factors + 8, sums + 8);
  }
};

/// 16-bit sums.
struct Int8Line : Registers {
  static constexpr int kTokens = 32;
  using Entries = RowEntries;

  friend Int8Line operator+(const Int8Line& a, const Int8Line& b) {
    return {{_mm256_add_epi16(a.low, b.low), _mm256_add_epi16(a.high, b.high)}};
  }
  friend Int8Line operator-(const Int8Line& a, const Int8Line& b) {
    return {{_mm256_sub_epi16(a.low, b.low), _mm256_sub_epi16(a.high, b.high)}};
  }
  template <int table>
  void add(const std::byte* tables, std::uint64_t offset) {
    asm("vpaddw %c3(%1,%2), %0, %0"
        : "+x"(low)
        : "r"(tables), "r"(offset), "i"(table), "m"(*reinterpret_cast<const Tables*>(tables)));
    asm("vpaddw %c3(%1,%2), %0, %0"
        : "+x"(high)
        : "r"(tables), "r"(offset), "i"(table + 32), "m"(*reinterpret_cast<const Tables*>(tables)));
  }
  void add_scaled(const float* factors, float* sums) const {
    const auto add_sixteen = [&](__m256i whole, int first) {
      add_scaled_eight(_mm256_cvtepi16_epi32(_mm256_castsi256_si128(whole)), factors + first,
                       sums + first);
      add_scaled_eight(_mm256_cvtepi16_epi32(_mm256_extracti128_si256(whole, 1)),
                       factors + first + 8, sums + first + 8);
    };
    add_sixteen(low, 0);
    add_sixteen(high, 16);
  }
};

/// Eight tokens' numbers of 32 bits as eight columns.
inline void transpose_eight(const std::byte* const* tokens, std::int64_t offset,
                            __m256i (&columns)[8]) {
  const auto row = [&](int t) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tokens[t] + offset));
  };
  __m256i pairs[8], fours[8];
  for (int t = 0; t < 8; t += 2) {
    pairs[t] = _mm256_unpacklo_epi32(row(t), row(t + 1));
    pairs[t + 1] = _mm256_unpackhi_epi32(row(t), row(t + 1));
  }
  for (int t = 0; t < 8; t += 4) {
    fours[t] = _mm256_unpacklo_epi64(pairs[t], pairs[t + 2]);
    fours[t + 1] = _mm256_unpackhi_epi64(pairs[t], pairs[t + 2]);
    fours[t + 2] = _mm256_unpacklo_epi64(pairs[t + 1], pairs[t + 3]);
    fours[t + 3] = _mm256_unpackhi_epi64(pairs[t + 1], pairs[t + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    columns[i] = _mm256_permute2x128_si256(fours[i], fours[4 + i], 0x20);
    columns[4 + i] = _mm256_permute2x128_si256(fours[i], fours[4 + i], 0x31);
  }
}

template <int inputs>
inline void side_by_side(const std::byte* const* tokens, std::int64_t offset, ExactLine* lines) {
  static_assert(inputs == 8);
  __m256i low[8], high[8];
  transpose_eight(tokens, offset, low);
  transpose_eight(tokens + 8, offset, high);
  for (int i = 0; i < 8; ++i) lines[i] = {{low[i], high[i]}};
}
template <int inputs>
inline void side_by_side(const std::byte* const* tokens, std::int64_t offset, Int8Line* lines) {
  static_assert(inputs == 8);
  __m256i columns[4][8];
  for (int k = 0; k < 4; ++k) transpose_eight(tokens + 8 * k, offset, columns[k]);
  const auto sixteen = [](__m256i a, __m256i b) {
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), _MM_SHUFFLE(3, 1, 2, 0));
  };
  for (int i = 0; i < 8; ++i) {
    lines[i] = {{sixteen(columns[0][i], columns[1][i]), sixteen(columns[2][i], columns[3][i])}};
  }
}

/// Words of 32 rows from the bytes of eight steps, `stride` apart; in place of steps beyond `left`
/// stands the last one.
inline void words_of_bytes(const std::byte* signs, std::int64_t stride, std::int64_t left,
                           std::uint64_t (&words)[kWordRows]) {
  const auto step = [&](std::int64_t k) {
    const std::byte* bytes = signs + (k < left ? k : left - 1) * stride;
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes));
  };
  __m256i pairs[4][2], fours[2][4];  // of rows 0 and on, 8 and on; 0, 4, 8, 12 and on; 16 behind
  for (int k = 0; k < 4; ++k) {
    const __m256i a = step(2 * k), b = step(2 * k + 1);
    pairs[k][0] = _mm256_unpacklo_epi8(a, b);
    pairs[k][1] = _mm256_unpackhi_epi8(a, b);
  }
  for (int k = 0; k < 2; ++k) {
    for (int eight = 0; eight < 2; ++eight) {
      const __m256i a = pairs[2 * k][eight], b = pairs[2 * k + 1][eight];
      fours[k][2 * eight] = _mm256_unpacklo_epi16(a, b);
      fours[k][2 * eight + 1] = _mm256_unpackhi_epi16(a, b);
    }
  }
  const auto store_rows = [&](int row, __m256i rows) {  // two of them, and those 16 behind
    auto* out = reinterpret_cast<__m128i*>(words + row);
    _mm_store_si128(out, _mm256_castsi256_si128(rows));
    _mm_store_si128(out + 8, _mm256_extracti128_si256(rows, 1));
  };
  for (int k = 0; k < 4; ++k) {
    store_rows(4 * k, _mm256_unpacklo_epi32(fours[0][k], fours[1][k]));
    store_rows(4 * k + 2, _mm256_unpackhi_epi32(fours[0][k], fours[1][k]));
  }
}

}  // namespace
}  // namespace fbi::kernels
