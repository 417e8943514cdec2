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
/// 2^24 times the values: a byte that moves to the top of its lane brings its sign along, while
/// sign extensions cross the halves of a register and are slower.
constexpr float kInt8Loaded = 0x1p-24f;
inline Floats load_int8(const std::byte* x) {
  const __m256i bytes =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
  const __m256i top = _mm256_setr_epi8(-1, -1, -1, 0, -1, -1, -1, 1, -1, -1, -1, 2, -1, -1, -1, 3,
                                       -1, -1, -1, 4, -1, -1, -1, 5, -1, -1, -1, 6, -1, -1, -1, 7);
  const __m256i next = _mm256_add_epi8(top, _mm256_set1_epi32(8 << 24));
  return {_mm256_cvtepi32_ps(_mm256_shuffle_epi8(bytes, top)),
          _mm256_cvtepi32_ps(_mm256_shuffle_epi8(bytes, next))};
}

}  // namespace
}  // namespace fbi::kernels

#include "kernels/cpu/vec16_gemv.h"

namespace fbi::kernels {
namespace {

// Sums of whole numbers by byte look-ups. Per 4 inputs a table holds the 16 sums of ±q plus an
// offset that makes them positive, cut into planes of 5 bits, one byte each: vpshufb looks 32 rows
// up in a plane, and 8 results fit a byte. Inputs are rounded once per unit; everything after is
// exact. vpermps, which looks fp32 sums up, takes 3 inputs and 8 rows at a time and was two
// thirds as fast.

/// Rows of two vectors share the loads of a table.
constexpr int kVectors = 2;
constexpr int kRowsAtOnce = 32 * kVectors;
constexpr int kStep = 8;   // inputs of a byte of signs
constexpr int kSteps = 4;  // whose results a byte holds: 8 · 31 < 256
constexpr std::int64_t kUnitGroups = 64;
constexpr std::int64_t kUnitHeader = 64;  // the scale

/// Planes of 5 bits: int8 inputs need 2 (sums of four are below 512), inputs of 23 bits 5.
constexpr int kInt8Planes = 2, kExactPlanes = 5;
constexpr std::int64_t kPlane = 16;  // bytes
constexpr std::int64_t kExactInputs = 4 * kUnitGroups;
constexpr std::int32_t kInt8Offset = 1 << 9, kExactOffset = 1 << 24;
/// 2 less than 2^22: rounding may add 1.
constexpr float kExactLargest = 4194302;
/// Units of smaller inputs count as 0: their scale's inverse has no fp32 value.
constexpr float kExactSmallest = 0x1p-100f;

constexpr std::int64_t table_bytes(int planes) {
  return kUnitHeader + kUnitGroups * planes * kPlane;
}

/// x·scale of one unit, 0 beyond count; returns the largest magnitude.
inline float scaled(const float* x, const float* scale, bool per_column, std::int64_t count,
                    float* out) {
  Floats largest = splat(0);
  const __m256 sign = _mm256_set1_ps(-0.0f);
  for (std::int64_t i = 0; i < kExactInputs; i += kLanes) {
    Floats part = splat(0);
    if (i + kLanes <= count) {
      part = mul(load(x + i), per_column ? load(scale + i) : splat(*scale));
    } else if (i < count) {
      float rest[kLanes] = {};
      for (std::int64_t k = 0; i + k < count; ++k)
        rest[k] = x[i + k] * scale[per_column ? i + k : 0];
      part = load(rest);
    }
    store(out + i, part);
    largest = max(largest, {_mm256_andnot_ps(sign, part.low), _mm256_andnot_ps(sign, part.high)});
  }
  return max_lane(largest);
}

/// Cuts 16 values below 1024 into two planes.
inline void store_planes(__m256i values, std::byte* planes) {
  const __m256i lower = _mm256_and_si256(values, _mm256_set1_epi16(31)),
                upper = _mm256_srli_epi16(values, 5);
  const __m256i packed = _mm256_packus_epi16(lower, upper);  // 8 lower, 8 upper, 8 lower, 8 upper
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(planes),
                      _mm256_permute4x64_epi64(packed, _MM_SHUFFLE(3, 1, 2, 0)));
}

void int8_tables(const float* x, const float* scale, bool per_column, std::int64_t count,
                 std::int64_t units, std::byte* table) {
  const __m256i sign[4] = {
      _mm256_set1_epi32(0x0001FFFF), _mm256_set1_epi64x(0x00010001FFFFFFFF),
      _mm256_setr_epi64x(-1, 0x0001000100010001, -1, 0x0001000100010001),
      _mm256_setr_epi64x(-1, -1, 0x0001000100010001,
                         0x0001000100010001)};  // of the bits of a 16-bit lane's number
  alignas(32) float inputs[kExactInputs];
  alignas(32) std::int16_t q[kExactInputs];
  for (std::int64_t unit = 0; unit < units; ++unit, table += table_bytes(kInt8Planes)) {
    const std::int64_t first = unit * kInt8Unit,
                       left = count - first < kInt8Unit ? count - first : kInt8Unit;
    const float limit =
        scaled(x + first, scale + (per_column ? first : 0), per_column, left, inputs);
    const Floats inverse = splat(limit > 0 ? 127 / limit : 0);
    for (std::int64_t i = 0; i < kExactInputs; i += kLanes) {
      const Floats whole = mul(load(inputs + i), inverse);
      const __m256i packed =
          _mm256_packs_epi32(_mm256_cvtps_epi32(whole.low), _mm256_cvtps_epi32(whole.high));
      _mm256_store_si256(reinterpret_cast<__m256i*>(q + i),
                         _mm256_permute4x64_epi64(packed, _MM_SHUFFLE(3, 1, 2, 0)));
    }
    const float factor = limit > 0 ? limit / 127 : 0;
    std::memcpy(table, &factor, sizeof factor);
    for (std::int64_t g = 0; g < kUnitGroups; ++g) {
      __m256i sum = _mm256_set1_epi16(kInt8Offset);
      for (int b = 0; b < 4; ++b) {
        sum = _mm256_add_epi16(sum, _mm256_sign_epi16(_mm256_set1_epi16(q[4 * g + b]), sign[b]));
      }
      store_planes(sum, table + kUnitHeader + g * kInt8Planes * kPlane);
    }
  }
}

/// The 16 sums of ±q[0..3], by the bits of their number, as 5 planes.
inline void store_exact_group(const std::int32_t* q, std::byte* planes) {
  // Lanes of `base` stand for sums 0-3 and 8-11 without q[2]; so packing in 128-bit halves ends in
  // order.
  const __m256i bit0 = _mm256_setr_epi32(-1, 1, -1, 1, -1, 1, -1, 1),
                bit1 = _mm256_setr_epi32(-1, -1, 1, 1, -1, -1, 1, 1);
  const __m256i bit3 = _mm256_setr_epi32(-1, -1, -1, -1, 1, 1, 1, 1),
                ten_bits = _mm256_set1_epi32(1023);
  __m256i base = _mm256_add_epi32(_mm256_set1_epi32(kExactOffset),
                                  _mm256_sign_epi32(_mm256_set1_epi32(q[0]), bit0));
  base = _mm256_add_epi32(base, _mm256_sign_epi32(_mm256_set1_epi32(q[1]), bit1));
  base = _mm256_add_epi32(base, _mm256_sign_epi32(_mm256_set1_epi32(q[3]), bit3));
  const __m256i third = _mm256_set1_epi32(q[2]);
  const __m256i a = _mm256_sub_epi32(base, third), b = _mm256_add_epi32(base, third);
  store_planes(_mm256_packus_epi32(_mm256_and_si256(a, ten_bits), _mm256_and_si256(b, ten_bits)),
               planes);
  store_planes(_mm256_packus_epi32(_mm256_and_si256(_mm256_srli_epi32(a, 10), ten_bits),
                                   _mm256_and_si256(_mm256_srli_epi32(b, 10), ten_bits)),
               planes + 2 * kPlane);
  const __m256i top = _mm256_packus_epi32(_mm256_srli_epi32(a, 20), _mm256_srli_epi32(b, 20));
  const __m128i last =
      _mm_packus_epi16(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(planes + 4 * kPlane), last);
}

void exact_tables(const float* x, const float* scale, bool per_column, std::int64_t count,
                  std::int64_t units, std::byte* table) {
  alignas(32) float inputs[kExactInputs];
  alignas(32) std::int32_t q[kExactInputs];
  for (std::int64_t unit = 0; unit < units; ++unit, table += table_bytes(kExactPlanes)) {
    const std::int64_t first = unit * kExactInputs;
    const float limit =
        scaled(x + first, scale + (per_column ? first : 0), per_column, count - first, inputs);
    const bool any = limit >= kExactSmallest;
    const __m256 inverse = _mm256_set1_ps(any ? kExactLargest / limit : 0);
    for (std::int64_t i = 0; i < kExactInputs; i += 8) {
      const __m256 whole = _mm256_mul_ps(_mm256_load_ps(inputs + i), inverse);
      _mm256_store_si256(reinterpret_cast<__m256i*>(q + i), _mm256_cvtps_epi32(whole));
    }
    const float factor = any ? limit / kExactLargest : 0;
    std::memcpy(table, &factor, sizeof factor);
    for (std::int64_t g = 0; g < kUnitGroups; ++g) {
      store_exact_group(q + 4 * g, table + kUnitHeader + g * kExactPlanes * kPlane);
    }
  }
}

/// Adds the planes of the sums of 4 inputs that the lower nibbles choose to `bytes`, or begins with
/// them.
template <int planes, bool begin>
inline void look_up(const __m256i (&nibbles)[kVectors], const std::byte* group,
                    __m256i (&bytes)[kVectors][planes]) {
#pragma GCC unroll 5
  for (int p = 0; p < planes; ++p) {
    const __m256i table = _mm256_broadcastsi128_si256(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(group + p * kPlane)));
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const __m256i sums = _mm256_shuffle_epi8(table, nibbles[v]);
      if (begin) {
        bytes[v][p] = sums;
      } else {
        // Written out: GCC would do all look-ups first and keep their results on the stack.
        asm("vpaddb %1, %0, %0" : "+x"(bytes[v][p]) : "x"(sums));
      }
    }
  }
}

/// The look-ups of kStep inputs.
template <int planes, bool begin>
inline void take_step(const std::byte*& words, const std::byte*& group,
                      __m256i (&bytes)[kVectors][planes]) {
  const __m256i low_nibble = _mm256_set1_epi8(15);
  ask_ahead(words);
  __m256i nibbles[kVectors];
  const auto load_signs = [&](int v) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(words + 32 * v));
  };
  for (int v = 0; v < kVectors; ++v) nibbles[v] = _mm256_and_si256(load_signs(v), low_nibble);
  look_up<planes, begin>(nibbles, group, bytes);
  // GCC would keep the upper nibbles while it needs their registers for sums.
  asm("" : "+r"(words));
  for (int v = 0; v < kVectors; ++v) {
    nibbles[v] = _mm256_and_si256(_mm256_srli_epi16(load_signs(v), 4), low_nibble);
  }
  look_up<planes, false>(nibbles, group + planes * kPlane, bytes);
  group += 2 * planes * kPlane;
  words += kInt8BlockRows;
}

/// Sums of two planes each, in 16 bits: rows 0-7 and 16-23, then rows 8-15 and 24-31 of a vector.
/// 256 inputs fit.
template <int planes>
using PairSums = __m256i[kVectors][(planes + 1) / 2][2];

template <int planes>
inline void add_pairs(const __m256i (&bytes)[kVectors][planes], PairSums<planes>& pairs) {
  const __m256i weights = _mm256_set1_epi16(32 << 8 | 1);
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 3
    for (int k = 0; k < (planes + 1) / 2; ++k) {
      const bool two = 2 * k + 1 < planes;
      const __m256i a = bytes[v][2 * k], b = two ? bytes[v][2 * k + 1] : _mm256_setzero_si256();
      __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
      if (two) low = _mm256_maddubs_epi16(low, weights), high = _mm256_maddubs_epi16(high, weights);
      pairs[v][k][0] = _mm256_add_epi16(pairs[v][k][0], low);
      pairs[v][k][1] = _mm256_add_epi16(pairs[v][k][1], high);
    }
  }
}

/// Eight rows' sums of a unit, of its `part`-th quarter of a vector, without the offsets.
template <int planes>
inline __m256 whole_sums(const __m256i (&pairs)[(planes + 1) / 2][2], int part,
                         std::int32_t offset) {
  __m256i sum = _mm256_set1_epi32(-offset);
#pragma GCC unroll 3
  for (int k = 0; k < (planes + 1) / 2; ++k) {
    const __m256i both = pairs[k][part % 2];
    const __m128i rows =
        part / 2 ? _mm256_extracti128_si256(both, 1) : _mm256_castsi256_si128(both);
    sum = _mm256_add_epi32(sum, _mm256_slli_epi32(_mm256_cvtepu16_epi32(rows), 10 * k));
  }
  return _mm256_cvtepi32_ps(sum);
}

/// sums += one unit of kRowsAtOnce rows.
template <int planes>
inline void add_unit(const std::byte* words, const std::byte* table, std::int64_t inputs,
                     std::int32_t offset, float* sums) {
  const std::int64_t steps = (inputs + kStep - 1) / kStep;
  const std::byte* group = table + kUnitHeader;
  PairSums<planes> pairs;
#pragma GCC unroll 2
  for (auto& vector : pairs) {
#pragma GCC unroll 3
    for (auto& pair : vector) pair[0] = pair[1] = _mm256_setzero_si256();
  }
  for (std::int64_t left = steps; left > 0; left -= kSteps) {
    __m256i bytes[kVectors][planes];
    take_step<planes, true>(words, group, bytes);
    for (int k = 1; k < kSteps && k < left; ++k) take_step<planes, false>(words, group, bytes);
    add_pairs<planes>(bytes, pairs);
  }
  float factor;
  std::memcpy(&factor, table, sizeof factor);
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) {
      float* rows = sums + 32 * v + 8 * part;
      const __m256 whole =
          whole_sums<planes>(pairs[v], part, static_cast<std::int32_t>(2 * steps) * offset);
      _mm256_storeu_ps(rows, _mm256_fmadd_ps(_mm256_set1_ps(factor), whole, _mm256_loadu_ps(rows)));
    }
  }
}

template <int planes>
inline void add_chunk(const std::byte* words, const std::byte* table, std::int64_t count,
                      std::int64_t unit_inputs, std::int32_t offset, float* sums) {
  for (; count > 0; count -= unit_inputs) {
    const std::int64_t inputs = count < unit_inputs ? count : unit_inputs;
    for (std::int64_t row = 0; row < kInt8BlockRows; row += kRowsAtOnce) {
      add_unit<planes>(words + row, table, inputs, offset, sums + row);
    }
    words += kExactInputs / kStep * kInt8BlockRows;
    table += table_bytes(planes);
  }
}

void exact_chunk(const std::byte* words, const std::byte* table, std::int64_t count, float* sums) {
  add_chunk<kExactPlanes>(words, table, count, kExactInputs, kExactOffset, sums);
}

void int8_chunk(const std::byte* words, const std::byte* table, std::int64_t count, float* sums) {
  add_chunk<kInt8Planes>(words, table, count, kInt8Unit, kInt8Offset, sums);
}

}  // namespace

constinit const GemvKernels kAvx2Gemv = {
    .exact = {kInt8BlockRows, kExactInputs, kStep, kInt8BlockRows, table_bytes(kExactPlanes), 4,
              repack_whole_bytes, exact_tables, exact_chunk, nullptr},
    .int8 = {kInt8BlockRows, kInt8Unit, kStep, kInt8BlockRows, table_bytes(kInt8Planes), 8,
             repack_bytes, int8_tables, int8_chunk, nullptr},
    .fp32 = {dense_rows<LoadFp32>},
    .fp16 = {dense_rows<LoadFp16>},
    .int8_rows = {dense_rows<LoadInt8>},
    .dot = dot,
    .mix_fp32 = mix<LoadFp32>,
    .mix_fp16 = mix<LoadFp16>,
};

}  // namespace fbi::kernels
