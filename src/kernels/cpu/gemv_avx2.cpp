#include <cstddef>

#include "kernels/cpu/vec16_avx2.h"

namespace fbi::kernels {
namespace {

inline Floats load_half(const std::byte* x) {
  const auto* halves = reinterpret_cast<const __m128i*>(x);
  return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
inline __m256 half_sum(Floats x) {
  return _mm256_add_ps(x.low, x.high);
}
inline Floats load_int8(const std::byte* x) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}

}  // namespace
}  // namespace fbi::kernels

#include "kernels/cpu/vec16_gemv.h"

namespace fbi::kernels {
namespace {

// ---- exact: per 3 inputs 8 sums in fp32; vpermps looks up 8 rows, ignoring higher index bits

constexpr int kExactInputs = 3, kExactGroups = kExactUnit / kExactInputs;
constexpr std::int64_t kExactTable = kExactGroups * 8 * sizeof(float);
static_assert(kExactTable % 64 == 0);

/// x[i]·scale[i] of inputs [first, first + size), 0 beyond count.
inline void scaled(const float* x, const float* scale, bool per_column, std::int64_t count,
                   std::int64_t size, float* out) {
  const std::int64_t valid = count < size ? count : size;
  for (std::int64_t i = 0; i < valid; ++i) out[i] = x[i] * scale[per_column ? i : 0];
  for (std::int64_t i = valid; i < size; ++i) out[i] = 0;
}

/// Lane c of the result: bit b of c decides the sign of x[b].
inline __m256 exact_group(const float* x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  __m256 sum = _mm256_setzero_ps();
  for (int b = 0; b < kExactInputs; ++b) {
    // The sign bit is that bit's complement.
    const __m256i clear =
        _mm256_andnot_si256(_mm256_slli_epi32(lane, 31 - b), _mm256_castps_si256(sign));
    sum = _mm256_add_ps(sum, _mm256_xor_ps(_mm256_set1_ps(x[b]), _mm256_castsi256_ps(clear)));
  }
  return sum;
}

void exact_tables(const float* x, const float* scale, bool per_column, std::int64_t count,
                  std::int64_t units, std::byte* table) {
  float inputs[kExactUnit];
  for (std::int64_t unit = 0; unit < units; ++unit) {
    const std::int64_t first_input = unit * kExactUnit;
    scaled(x + first_input, scale + (per_column ? first_input : 0), per_column, count - first_input,
           kExactUnit, inputs);
    auto* out = reinterpret_cast<float*>(table + unit * kExactTable);
    for (int g = 0; g < kExactGroups; ++g) {
      _mm256_store_ps(out + 8 * g, exact_group(inputs + kExactInputs * g));
    }
  }
}

/// Half a block at a time: four sums, four words and a table fit the registers.
constexpr int kExactVectors = kBlockRows / 2 / 8;

/// partial += the sums of one unit.
inline void add_unit(const std::byte* words, const std::byte* table,
                     __m256 (&partial)[kExactVectors]) {
  __m256i signs[kExactVectors];
  for (int v = 0; v < kExactVectors; ++v) {
    signs[v] = _mm256_load_si256(reinterpret_cast<const __m256i*>(words + 32 * v));
  }
#pragma GCC unroll 10
  for (int g = 0; g < kExactGroups; ++g) {
    const __m256 group = _mm256_load_ps(reinterpret_cast<const float*>(table + 32 * g));
    for (int v = 0; v < kExactVectors; ++v) {
      if (g) signs[v] = _mm256_srli_epi32(signs[v], kExactInputs);
      partial[v] = _mm256_add_ps(partial[v], _mm256_permutevar8x32_ps(group, signs[v]));
    }
  }
}

inline void exact_half(const std::byte* words, const std::byte* table, std::int64_t count,
                       float* sums) {
  __m256 partial[kExactVectors];
  for (auto& part : partial) part = _mm256_setzero_ps();
  for (; count > 0; count -= kExactUnit) {
    add_unit(words, table, partial);
    words += 4 * kBlockRows;
    table += kExactTable;
  }
  for (int v = 0; v < kExactVectors; ++v) {
    _mm256_storeu_ps(sums + 8 * v, _mm256_add_ps(_mm256_loadu_ps(sums + 8 * v), partial[v]));
  }
}

void exact_chunk(const std::byte* words, const std::byte* table, std::int64_t count, float* sums) {
  constexpr std::int64_t half_rows = kBlockRows / 2;
  exact_half(words, table, count, sums);
  exact_half(words + 4 * half_rows, table, count, sums + half_rows);
}

// ---- int8: per 4 inputs 16 sums of 16 bits, as a table of lower and one of upper bytes; vpshufb
// looks up 32 rows in each

constexpr int kInt8Bytes = 32;  // of 8 inputs; the last input of a unit is always 0
constexpr std::int64_t kInt8Table = kInt8Bytes * 2 * 32 + 64;

/// Rounds one unit to 8 bits, in 16-bit elements; returns the scale.
inline float quantize(const float* x, const float* scale, bool per_column, std::int64_t count,
                      std::int16_t* q) {
  float inputs[256];
  scaled(x, scale, per_column, count, 256, inputs);
  const __m256 sign = _mm256_set1_ps(-0.0f);
  Floats largest = splat(0);
  for (int k = 0; k < 256; k += kLanes) {
    const Floats part = load(inputs + k);
    largest = max(largest, {_mm256_andnot_ps(sign, part.low), _mm256_andnot_ps(sign, part.high)});
  }
  const float limit = max_lane(largest);
  const Floats inverse = splat(limit > 0 ? 127 / limit : 0);
  for (int k = 0; k < 256; k += kLanes) {
    const Floats whole = mul(load(inputs + k), inverse);
    const __m256i packed =
        _mm256_packs_epi32(_mm256_cvtps_epi32(whole.low), _mm256_cvtps_epi32(whole.high));
    _mm256_store_si256(reinterpret_cast<__m256i*>(q + k),
                       _mm256_permute4x64_epi64(packed, _MM_SHUFFLE(3, 1, 2, 0)));
  }
  return limit > 0 ? limit / 127 : 0;
}

/// 16 lower bytes, then 16 upper ones.
inline __m256i int8_group(const std::int16_t* q) {
  const __m256i lane = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m256i one = _mm256_set1_epi16(1);
  __m256i sum = _mm256_setzero_si256();
  for (int b = 0; b < 4; ++b) {
    const __m256i bit = _mm256_and_si256(_mm256_srli_epi16(lane, b), one);
    const __m256i sign = _mm256_sub_epi16(_mm256_add_epi16(bit, bit), one);
    sum = _mm256_add_epi16(sum, _mm256_sign_epi16(_mm256_set1_epi16(q[b]), sign));
  }
  const __m256i lower = _mm256_and_si256(sum, _mm256_set1_epi16(0xFF));
  const __m256i upper = _mm256_srli_epi16(sum, 8);
  // Pairs of 8 bytes: lower 0-7, upper 0-7, lower 8-15, upper 8-15.
  return _mm256_permute4x64_epi64(_mm256_packus_epi16(lower, upper), _MM_SHUFFLE(3, 1, 2, 0));
}

void int8_tables(const float* x, const float* scale, bool per_column, std::int64_t count,
                 std::int64_t units, std::byte* table) {
  alignas(32) std::int16_t q[256];
  for (std::int64_t unit = 0; unit < units; ++unit) {
    const std::int64_t first_input = unit * kInt8Unit;
    const std::int64_t left = count - first_input < kInt8Unit ? count - first_input : kInt8Unit;
    std::byte* out = table + unit * kInt8Table;
    const float factor =
        quantize(x + first_input, scale + (per_column ? first_input : 0), per_column, left, q);
    std::memcpy(out, &factor, sizeof factor);
    for (int g = 0; g < 2 * kInt8Bytes; ++g) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(out + 64 + 32 * g), int8_group(q + 4 * g));
    }
  }
}

/// Adds the sums of 4 inputs of 32 rows: rows 0-7 and 16-23 to whole[0], the others to whole[1].
inline void add_group(__m256i nibbles, const std::byte* group, __m256i (&whole)[2]) {
  const __m256i table = _mm256_load_si256(reinterpret_cast<const __m256i*>(group));
  const __m256i lower = _mm256_shuffle_epi8(_mm256_permute2x128_si256(table, table, 0x00), nibbles);
  const __m256i upper = _mm256_shuffle_epi8(_mm256_permute2x128_si256(table, table, 0x11), nibbles);
  whole[0] = _mm256_add_epi16(whole[0], _mm256_unpacklo_epi8(lower, upper));
  whole[1] = _mm256_add_epi16(whole[1], _mm256_unpackhi_epi8(lower, upper));
}

inline __m256 to_floats(__m128i whole) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(whole));
}

inline void int8_quarter(const std::byte* words, const std::byte* table, std::int64_t count,
                         float* sums) {
  const __m256i low_nibble = _mm256_set1_epi8(15);
  for (; count > 0; count -= kInt8Unit) {
    __m256i whole[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    const std::int64_t inputs = count < kInt8Unit ? count : kInt8Unit;
    const std::byte* group = table + 64;
    for (std::int64_t first_input = 0; first_input < inputs; first_input += 8) {
      const __m256i signs = _mm256_load_si256(reinterpret_cast<const __m256i*>(words));
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(signs, 4), low_nibble);
      add_group(_mm256_and_si256(signs, low_nibble), group, whole);
      add_group(high, group + 32, whole);
      group += 64;
      words += kInt8BlockRows;
    }
    float factor;
    std::memcpy(&factor, table, sizeof factor);
    const __m256 f = _mm256_set1_ps(factor);
    const __m128i rows[4] = {_mm256_castsi256_si128(whole[0]), _mm256_castsi256_si128(whole[1]),
                             _mm256_extracti128_si256(whole[0], 1),
                             _mm256_extracti128_si256(whole[1], 1)};
    for (int k = 0; k < 4; ++k) {
      const __m256 sum = _mm256_loadu_ps(sums + 8 * k);
      _mm256_storeu_ps(sums + 8 * k, _mm256_fmadd_ps(f, to_floats(rows[k]), sum));
    }
    table += kInt8Table;
  }
}

void int8_chunk(const std::byte* words, const std::byte* table, std::int64_t count, float* sums) {
  for (std::int64_t row = 0; row < kInt8BlockRows; row += 32) {
    int8_quarter(words + row, table, count, sums + row);
  }
}

}  // namespace

constinit const GemvKernels kAvx2Gemv = {
    .exact = {kBlockRows, kExactUnit, kExactUnit, 4 * kBlockRows, kExactTable, 32, repack_words32,
              exact_tables, exact_chunk, nullptr},
    .int8 = {kInt8BlockRows, kInt8Unit, 8, kInt8BlockRows, kInt8Table, 8, repack_bytes, int8_tables,
             int8_chunk, nullptr},
    .fp32 = {dense_rows<LoadFp32>},
    .fp16 = {dense_rows<LoadFp16>},
    .int8_rows = {dense_rows<LoadInt8>},
    .dot = dot,
    .mix_fp32 = mix<LoadFp32>,
    .mix_fp16 = mix<LoadFp16>,
};

}  // namespace fbi::kernels
