#include <cstddef>
#include <type_traits>

#include "kernels/cpu/int8_rows_x86.h"
#include "kernels/cpu/vec16_avx512.h"
#include "kernels/cpu/vec16_gemv_x86.h"

namespace fbi::kernels {
namespace {

inline Floats load_half(const std::byte* x) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
}
inline void store_half(std::uint16_t* out, Floats x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                      _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
constexpr int kDenseTokens = 8;
constexpr int kDenseRows = 4;
constexpr int kInt8Rows = 4;

}  // namespace
}  // namespace fbi::kernels

#include "kernels/cpu/lines_avx512.h"
#include "kernels/cpu/vec16_gemv.h"

namespace fbi::kernels {
namespace {

/// Calls take(n) with the number of blocks as a constant, 1 to kMaxStreams.
template <class Take>
inline void with_constant(std::int64_t blocks, const Take& take) {
  static_assert(kMaxStreams == 4);
  switch (blocks) {
    case 1:
      return take(std::integral_constant<int, 1>());
    case 2:
      return take(std::integral_constant<int, 2>());
    case 3:
      return take(std::integral_constant<int, 3>());
    default:
      return take(std::integral_constant<int, 4>());
  }
}

/// Sign combinations of this many inputs have one table.
constexpr int kGroup = 5;
/// Blocks of a group: their words of a chunk are some pages.
constexpr std::int64_t kGroupBlocks = 2;
static_assert(kGroupBlocks * kMaxStreams <= kMaxGroupBlocks);

/// Of a unit in front of its tables or of numbers: what one of these is worth.
constexpr std::int64_t kUnitHeader = 64;

// ---- exact: per 5 inputs 32 sums in fp32; vpermi2ps looks up 16 rows by 5 bits of their words

constexpr int kExactGroups = kExactUnit / kGroup;
constexpr std::int64_t kExactTable = kExactGroups * 32 * sizeof(float);
constexpr std::int64_t kExactChunkUnits = 9;

/// Lane c of sign_mask(b): bit b of c is 0, i.e. input b enters with minus.
inline __mmask16 minus_lanes(int b) {
  constexpr std::uint16_t masks[4] = {0x5555, 0x3333, 0x0F0F, 0x00FF};
  return masks[b];
}

/// Lane c is +1 where bit b of c is 1, else -1.
inline __m512 sign_lanes(int b) {
  return _mm512_mask_sub_ps(_mm512_set1_ps(1), minus_lanes(b), _mm512_setzero_ps(),
                            _mm512_set1_ps(1));
}

/// Both halves of the table of five inputs: the fifth decides between them. Products with ±1 are
/// exact.
inline void exact_group(const float* x, const __m512 (&sign)[4], float* table) {
  __m512 sum = _mm512_mul_ps(sign[0], _mm512_set1_ps(x[0]));
  for (int b = 1; b < 4; ++b) sum = _mm512_fmadd_ps(sign[b], _mm512_set1_ps(x[b]), sum);
  const __m512 last = _mm512_set1_ps(x[4]);
  _mm512_store_ps(table, _mm512_sub_ps(sum, last));
  _mm512_store_ps(table + 16, _mm512_add_ps(sum, last));
}

inline Floats scaled(const float* x, const float* scale, bool per_column, std::int64_t i,
                     std::int64_t count) {
  const std::int64_t left = count - i;
  const __mmask16 lanes = left >= 16 ? 0xFFFF : left > 0 ? first(static_cast<int>(left)) : 0;
  const Floats factor =
      per_column ? _mm512_maskz_loadu_ps(lanes, scale + i) : _mm512_set1_ps(*scale);
  return _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), factor);
}

/// Of one unit, and the first two of the next one.
inline void store_scaled(const float* x, const float* scale, bool per_column, std::int64_t unit,
                         std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < 32; i += 16) {
    store(out + i, scaled(x, scale, per_column, unit * kExactUnit + i, count));
  }
}

void exact_tables(const float* x, const float* scale, bool per_column, std::int64_t count,
                  std::int64_t units, std::byte* table) {
  const __m512 sign[4] = {sign_lanes(0), sign_lanes(1), sign_lanes(2), sign_lanes(3)};
  alignas(64) float inputs[32];
  for (std::int64_t unit = 0; unit < units; ++unit) {
    store_scaled(x, scale, per_column, unit, count, inputs);
    asm("" : "+m"(inputs));  // else GCC takes them apart in registers, by shuffles
    auto* out = reinterpret_cast<float*>(table + unit * kExactTable);
    for (int g = 0; g < kExactGroups; ++g) exact_group(inputs + kGroup * g, sign, out + 32 * g);
  }
}

constexpr int kExactVectors = kBlockRows / 16;

/// partial += the sums of one unit, for tokens whose tables are `stride` bytes apart. Several
/// tokens share the shifts, which compete with the look-ups for the same ports. Calls ask(line)
/// for each line of words that it reads.
template <int tokens, class Ask>
inline void add_unit(const std::byte* words, const std::byte* table, std::int64_t stride,
                     __m512 (&partial)[tokens][kExactVectors], const Ask& ask) {
  __m512i signs[kExactVectors];
  for (int v = 0; v < kExactVectors; ++v) {
    signs[v] = _mm512_load_si512(words + 64 * v);
    ask(words + 64 * v);
  }
#pragma GCC unroll 6
  for (int g = 0; g < kExactGroups; ++g) {
    __m512i index[kExactVectors];  // its upper bits are ignored
    for (int v = 0; v < kExactVectors; ++v) {
      index[v] = g ? _mm512_srli_epi32(signs[v], kGroup * g) : signs[v];
    }
#pragma GCC unroll 4
    for (int t = 0; t < tokens; ++t) {
      const __m512 minus = _mm512_load_ps(table + t * stride + 128 * g);
      const __m512 plus = _mm512_load_ps(table + t * stride + 128 * g + 64);
#pragma GCC unroll 4
      for (int v = 0; v < kExactVectors; ++v) {
        partial[t][v] = _mm512_add_ps(partial[t][v], _mm512_permutex2var_ps(minus, index[v], plus));
        // GCC would do all look-ups first and keep their results on the stack.
        asm("" : "+v"(partial[t][v]));
      }
    }
  }
}

template <int tokens>
inline void add_partial(const __m512 (&partial)[tokens][kExactVectors], float* sums,
                        std::int64_t sums_stride) {
  for (int t = 0; t < tokens; ++t) {
    for (int v = 0; v < kExactVectors; ++v) {
      float* sum = sums + t * sums_stride + 16 * v;
      store(sum, add(load(sum), partial[t][v]));
    }
  }
}

void exact_chunk_of_group(const std::byte* words, const std::byte* tables,
                          std::int64_t table_stride, std::int64_t count, float* sums,
                          std::int64_t sums_stride) {
  __m512 partial[kTokenGroup][kExactVectors] = {};
  for (; count > 0; count -= kExactUnit) {
    add_unit(words, tables, table_stride, partial, [](const std::byte*) {});
    words += 4 * kBlockRows;
    tables += kExactTable;
  }
  add_partial(partial, sums, sums_stride);
}

template <int blocks>
void exact_blocks(const std::byte* const* words, std::int64_t apart, const std::byte* table,
                  std::int64_t count, float* sums) {
  __m512 partial[blocks][1][kExactVectors] = {};
  for (std::int64_t place = 0; count > 0; count -= kExactUnit, place += 4 * kBlockRows) {
#pragma GCC unroll 4
    for (int k = 0; k < blocks; ++k) {
      add_unit(words[k * apart] + place, table, 0, partial[k], ask_ahead<blocks>);
    }
    table += kExactTable;
  }
#pragma GCC unroll 4
  for (int k = 0; k < blocks; ++k) add_partial(partial[k], sums + k * apart * kMaxBlockRows, 0);
}

void exact_chunk(const std::byte* const* words, std::int64_t apart, std::int64_t blocks,
                 const std::byte* table, std::int64_t count, float* sums) {
  with_constant(blocks, [&](auto n) { exact_blocks<n>(words, apart, table, count, sums); });
}

/// In lanes a chunk's sums are of fp32 numbers that are worth what they are.
void exact_inputs(const float* x, const float* scale, bool per_column, std::int64_t count,
                  std::int64_t units, std::byte* table) {
  for (std::int64_t unit = 0; unit < units; ++unit, table += kExactTable) {
    constexpr float kFactor = 1;
    std::memcpy(table, &kFactor, sizeof kFactor);
    store_scaled(x, scale, per_column, unit, count, reinterpret_cast<float*>(table + kUnitHeader));
  }
}

struct Exact {
  using Line = ExactLine;
  static constexpr LaneWalk walk{.step_inputs = kExactUnit,
                                 .sign_bytes = sizeof(std::uint32_t),
                                 .rows_together = kBlockRows,
                                 .block_rows = kBlockRows,
                                 .steps_together = 1,
                                 .pass_steps = 2,
                                 .rest_steps = 1,
                                 .sum_inputs = kExactChunkUnits * kExactUnit,
                                 .first_number = kUnitHeader,
                                 .step_numbers = kExactTable,
                                 .sum_numbers = kExactChunkUnits * kExactTable};
  template <int steps>
  static void read_signs(const std::byte* signs, std::int64_t stride, std::int64_t,
                         std::uint64_t (&words)[kWordRows]) {
    words_of_numbers<std::uint32_t, kExactUnit, steps>(signs, stride, words);
  }
};

// ---- int8: per 5 inputs 32 sums in 16 bits; vpermw looks up 32 rows, ignoring higher index bits

constexpr std::int64_t kInt8Word = 15;
constexpr int kInt8Groups = kInt8Unit / kGroup;
constexpr std::int64_t kInt8Table = kUnitHeader + kInt8Groups * 32 * sizeof(std::int16_t);

/// Rounds one unit to 8 bits, in 16-bit lanes; returns the scale.
inline float quantize(const float* x, const float* scale, bool per_column, std::int64_t count,
                      std::int16_t* q) {
  Floats inputs[16], largest = splat(0);
  for (int k = 0; k < 16; ++k) {
    inputs[k] = scaled(x, scale, per_column, 16 * k, count);
    largest = max(largest, _mm512_abs_ps(inputs[k]));
  }
  const float limit = max_lane(largest);
  const Floats inverse = splat(limit > 0 ? 127 / limit : 0);
  for (int k = 0; k < 16; ++k) {
    const __m512i whole = _mm512_cvtps_epi32(mul(inputs[k], inverse));
    _mm256_store_si256(reinterpret_cast<__m256i*>(q + 16 * k), _mm512_cvtepi32_epi16(whole));
  }
  return limit > 0 ? limit / 127 : 0;
}

inline __m512i int8_group(const std::int16_t* q) {
  constexpr std::uint32_t minus[kGroup] = {0x55555555, 0x33333333, 0x0F0F0F0F, 0x00FF00FF,
                                           0x0000FFFF};
  __m512i sum = _mm512_setzero_si512();
  for (int b = 0; b < kGroup; ++b) {
    const __m512i input = _mm512_set1_epi16(q[b]);
    sum = _mm512_mask_sub_epi16(_mm512_add_epi16(sum, input), minus[b], sum, input);
  }
  return sum;
}

/// Rounds each unit, writes what one of its numbers is worth to its place and calls take(numbers,
/// what follows there).
template <class Take>
inline void for_each_int8_unit(const float* x, const float* scale, bool per_column,
                               std::int64_t count, std::int64_t units, std::byte* place,
                               const Take& take) {
  alignas(64) std::int16_t q[256];
  for (std::int64_t first_input = 0; units > 0; --units, first_input += kInt8Unit) {
    const std::int64_t left = count - first_input < kInt8Unit ? count - first_input : kInt8Unit;
    const float factor =
        quantize(x + first_input, scale + (per_column ? first_input : 0), per_column, left, q);
    std::memcpy(place, &factor, sizeof factor);
    take(q, place + kUnitHeader);
    place += kInt8Table;
  }
}

void int8_tables(const float* x, const float* scale, bool per_column, std::int64_t count,
                 std::int64_t units, std::byte* table) {
  for_each_int8_unit(x, scale, per_column, count, units, table,
                     [](const std::int16_t* q, std::byte* tables) {
                       for (int g = 0; g < kInt8Groups; ++g) {
                         _mm512_store_si512(tables + 64 * g, int8_group(q + kGroup * g));
                       }
                     });
}

void int8_inputs(const float* x, const float* scale, bool per_column, std::int64_t count,
                 std::int64_t units, std::byte* table) {
  for_each_int8_unit(
      x, scale, per_column, count, units, table,
      [](const std::int16_t* q, std::byte* out) { std::memcpy(out, q, 256 * sizeof *q); });
}

/// sums += factor · whole, 32 rows.
inline void add_scaled(__m512i whole, __m512 factor, float* sums) {
  const __m512i low = _mm512_cvtepi16_epi32(_mm512_castsi512_si256(whole));
  const __m512i high = _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(whole, 1));
  store(sums, fma(factor, _mm512_cvtepi32_ps(low), load(sums)));
  store(sums + 16, fma(factor, _mm512_cvtepi32_ps(high), load(sums + 16)));
}

constexpr int kInt8Vectors = kInt8BlockRows / 32;

/// whole += the sums of kInt8Word inputs.
template <int blocks>
inline void add_words(const std::byte* words, const __m512i (&tables)[3],
                      __m512i (&whole)[kInt8Vectors]) {
  for (int v = 0; v < kInt8Vectors; ++v) {
    const __m512i signs = _mm512_load_si512(words + 64 * v);
    ask_ahead<blocks>(words + 64 * v);
    const __m512i a = _mm512_permutexvar_epi16(signs, tables[0]);
    const __m512i b = _mm512_permutexvar_epi16(_mm512_srli_epi16(signs, 5), tables[1]);
    const __m512i c = _mm512_permutexvar_epi16(_mm512_srli_epi16(signs, 10), tables[2]);
    whole[v] = _mm512_add_epi16(whole[v], _mm512_add_epi16(a, _mm512_add_epi16(b, c)));
  }
}

template <int blocks>
void int8_blocks(const std::byte* const* words, std::int64_t apart, const std::byte* table,
                 std::int64_t count, float* sums) {
  for (std::int64_t place = 0; count > 0; count -= kInt8Unit) {
    __m512i whole[blocks][kInt8Vectors] = {};
    const std::byte* group = table + kUnitHeader;
    const std::int64_t inputs = count < kInt8Unit ? count : kInt8Unit;
    for (std::int64_t first_input = 0; first_input < inputs; first_input += kInt8Word) {
      const __m512i tables[3] = {_mm512_load_si512(group), _mm512_load_si512(group + 64),
                                 _mm512_load_si512(group + 128)};
#pragma GCC unroll 4
      for (int k = 0; k < blocks; ++k)
        add_words<blocks>(words[k * apart] + place, tables, whole[k]);
      group += 3 * 64;
      place += 2 * kInt8BlockRows;
    }
    float factor;
    std::memcpy(&factor, table, sizeof factor);
    for (int k = 0; k < blocks; ++k) {
      for (int v = 0; v < kInt8Vectors; ++v) {
        add_scaled(whole[k][v], splat(factor), sums + k * apart * kMaxBlockRows + 32 * v);
      }
    }
    table += kInt8Table;
  }
}

void int8_chunk(const std::byte* const* words, std::int64_t apart, std::int64_t blocks,
                const std::byte* table, std::int64_t count, float* sums) {
  with_constant(blocks, [&](auto n) { int8_blocks<n>(words, apart, table, count, sums); });
}

struct Int8 {
  using Line = Int8Line;
  static constexpr LaneWalk walk{.step_inputs = kInt8Word,
                                 .sign_bytes = sizeof(std::uint16_t),
                                 .rows_together = kInt8BlockRows,
                                 .block_rows = kInt8BlockRows,
                                 .steps_together = 1,
                                 .pass_steps = 4,
                                 .rest_steps = 1,
                                 .sum_inputs = kInt8Unit,
                                 .first_number = kUnitHeader,
                                 .step_numbers = kInt8Word * sizeof(std::int16_t),
                                 .sum_numbers = kInt8Table};
  template <int steps>
  static void read_signs(const std::byte* signs, std::int64_t stride, std::int64_t,
                         std::uint64_t (&words)[kWordRows]) {
    words_of_numbers<std::uint16_t, kInt8Word, steps>(signs, stride, words);
  }
};

}  // namespace

constinit const GemvKernels kAvx512Gemv =
    vec16_gemv({kBlockRows, kExactUnit, kExactUnit, 4 * kBlockRows, kExactTable, kExactChunkUnits,
                kGroupBlocks, repack_words32, exact_tables, exact_chunk, exact_chunk_of_group,
                kMaxStreams, lane_product<Exact>(15, exact_inputs)},
               {kInt8BlockRows, kInt8Unit, kInt8Word, 2 * kInt8BlockRows, kInt8Table, 8,
                kGroupBlocks, repack_words16, int8_tables, int8_chunk, nullptr, kMaxStreams,
                lane_product<Int8>(17, int8_inputs)});

}  // namespace fbi::kernels
