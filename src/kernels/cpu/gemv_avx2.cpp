#include <cstddef>
#include <type_traits>

#include "kernels/cpu/vec16_avx2.h"

namespace fbi::kernels {
namespace {

inline Floats load_half(const std::byte* x) {
  const auto* halves = reinterpret_cast<const __m128i*>(x);
  return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
inline void store_half(std::uint16_t* out, Floats x) {
  auto* halves = reinterpret_cast<__m128i*>(out);
  _mm_storeu_si128(halves, _mm256_cvtps_ph(x.low, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(halves + 1, _mm256_cvtps_ph(x.high, _MM_FROUND_TO_NEAREST_INT));
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
// offset that makes them positive, cut into planes of 5 or 6 bits, one byte each: vpshufb looks 32
// rows up in a plane, and 8 or 4 results fit a byte. Inputs are rounded once per unit; everything
// after is exact. vpermps, which looks fp32 sums up, takes 3 inputs and 8 rows at a time and was
// two thirds as fast.

constexpr int kStep = 8;  // inputs of a byte of signs
constexpr int kVectorRows = 32;
constexpr std::int64_t kUnitHeader = 64;  // the scale
constexpr std::int64_t kPlane = 16;       // bytes

/// What a table's sums are cut into, and how they are added up, as a template argument.
struct Planes {
  int count, bits;
  int steps;    ///< whose results a byte holds: two look-ups each; of one word of signs
  int vectors;  ///< that share the loads of a table; more sums would leave the registers
  int groups;   ///< of four inputs, in a unit
  std::int32_t offset;
  constexpr std::int64_t inputs() const { return 4 * groups; }
  constexpr std::int64_t rows() const { return vectors * kVectorRows; }
  constexpr std::int64_t word_inputs() const { return steps * kStep; }
  constexpr std::int64_t word_bytes() const { return steps * kInt8BlockRows; }  // of a block
  constexpr std::int64_t table_bytes() const { return kUnitHeader + groups * count * kPlane; }
};
/// Sums of four are below 512.
constexpr Planes kInt8{
    .count = 2, .bits = 5, .steps = 4, .vectors = 2, .groups = 64, .offset = 1 << 9};
/// Sums of four are at most as large as the offset.
constexpr Planes kExact{
    .count = 4, .bits = 6, .steps = 2, .vectors = 1, .groups = 64, .offset = 1 << 23};
/// What the largest sum of four becomes, less than the offset by what rounding may add.
constexpr float kExactLargest = 8388600;
/// Units of smaller inputs count as 0: their scale's inverse has no fp32 value.
constexpr float kExactSmallest = 0x1p-100f;

/// x·scale of one unit, 0 beyond count; returns the largest magnitude.
template <std::int64_t inputs>
inline float scaled(const float* x, const float* scale, bool per_column, std::int64_t count,
                    float (&out)[inputs]) {
  Floats largest = splat(0);
  const __m256 sign = _mm256_set1_ps(-0.0f);
  for (std::int64_t i = 0; i < inputs; i += kLanes) {
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

/// Cuts 16 values of two planes' bits.
template <int bits>
inline void store_planes(__m256i values, std::byte* planes) {
  const __m256i lower = _mm256_and_si256(values, _mm256_set1_epi16((1 << bits) - 1)),
                upper = _mm256_srli_epi16(values, bits);
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
  alignas(32) float inputs[kInt8.inputs()];
  alignas(32) std::int16_t q[kInt8.inputs()];
  for (std::int64_t unit = 0; unit < units; ++unit, table += kInt8.table_bytes()) {
    const std::int64_t first = unit * kInt8Unit,
                       left = count - first < kInt8Unit ? count - first : kInt8Unit;
    const float limit =
        scaled(x + first, scale + (per_column ? first : 0), per_column, left, inputs);
    const Floats inverse = splat(limit > 0 ? 127 / limit : 0);
    for (std::int64_t i = 0; i < kInt8.inputs(); i += kLanes) {
      const Floats whole = mul(load(inputs + i), inverse);
      const __m256i packed =
          _mm256_packs_epi32(_mm256_cvtps_epi32(whole.low), _mm256_cvtps_epi32(whole.high));
      _mm256_store_si256(reinterpret_cast<__m256i*>(q + i),
                         _mm256_permute4x64_epi64(packed, _MM_SHUFFLE(3, 1, 2, 0)));
    }
    const float factor = limit > 0 ? limit / 127 : 0;
    std::memcpy(table, &factor, sizeof factor);
    for (std::int64_t g = 0; g < kInt8.groups; ++g) {
      __m256i sum = _mm256_set1_epi16(kInt8.offset);
      for (int b = 0; b < 4; ++b) {
        sum = _mm256_add_epi16(sum, _mm256_sign_epi16(_mm256_set1_epi16(q[4 * g + b]), sign[b]));
      }
      store_planes<kInt8.bits>(sum, table + kUnitHeader + g * kInt8.count * kPlane);
    }
  }
}

/// The 16 sums of ±q[0..3], by the bits of their number, as planes.
inline void store_exact_group(const std::int32_t* q, std::byte* planes) {
  // Lanes of `base` stand for sums 0-3 and 8-11 without q[2]; so packing in 128-bit halves ends in
  // order.
  const __m256i bit0 = _mm256_setr_epi32(-1, 1, -1, 1, -1, 1, -1, 1),
                bit1 = _mm256_setr_epi32(-1, -1, 1, 1, -1, -1, 1, 1);
  const __m256i bit3 = _mm256_setr_epi32(-1, -1, -1, -1, 1, 1, 1, 1),
                two_planes = _mm256_set1_epi32((1 << 2 * kExact.bits) - 1);
  __m256i base = _mm256_add_epi32(_mm256_set1_epi32(kExact.offset),
                                  _mm256_sign_epi32(_mm256_set1_epi32(q[0]), bit0));
  base = _mm256_add_epi32(base, _mm256_sign_epi32(_mm256_set1_epi32(q[1]), bit1));
  base = _mm256_add_epi32(base, _mm256_sign_epi32(_mm256_set1_epi32(q[3]), bit3));
  const __m256i third = _mm256_set1_epi32(q[2]);
  const __m256i a = _mm256_sub_epi32(base, third), b = _mm256_add_epi32(base, third);
  store_planes<kExact.bits>(
      _mm256_packus_epi32(_mm256_and_si256(a, two_planes), _mm256_and_si256(b, two_planes)),
      planes);
  store_planes<kExact.bits>(_mm256_packus_epi32(_mm256_srli_epi32(a, 2 * kExact.bits),
                                                _mm256_srli_epi32(b, 2 * kExact.bits)),
                            planes + 2 * kPlane);
}

/// The largest sum of the magnitudes of four inputs of a unit.
inline float largest_group(const float* inputs) {
  const auto load_magnitudes = [&](std::int64_t i) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_load_ps(inputs + i));
  };
  __m256 largest = _mm256_setzero_ps();
  for (std::int64_t i = 0; i < kExact.inputs(); i += 32) {
    const __m256 pairs = _mm256_hadd_ps(load_magnitudes(i), load_magnitudes(i + 8)),
                 others = _mm256_hadd_ps(load_magnitudes(i + 16), load_magnitudes(i + 24));
    largest = _mm256_max_ps(largest, _mm256_hadd_ps(pairs, others));
  }
  return max_lane({largest, largest});
}

void exact_tables(const float* x, const float* scale, bool per_column, std::int64_t count,
                  std::int64_t units, std::byte* table) {
  alignas(32) float inputs[kExact.inputs()];
  alignas(32) std::int32_t q[kExact.inputs()];
  for (std::int64_t unit = 0; unit < units; ++unit, table += kExact.table_bytes()) {
    const std::int64_t first = unit * kExact.inputs();
    scaled(x + first, scale + (per_column ? first : 0), per_column, count - first, inputs);
    const float limit = largest_group(inputs);
    const bool any = limit >= kExactSmallest;
    const __m256 inverse = _mm256_set1_ps(any ? kExactLargest / limit : 0);
    for (std::int64_t i = 0; i < kExact.inputs(); i += 8) {
      const __m256 whole = _mm256_mul_ps(_mm256_load_ps(inputs + i), inverse);
      _mm256_store_si256(reinterpret_cast<__m256i*>(q + i), _mm256_cvtps_epi32(whole));
    }
    const float factor = any ? limit / kExactLargest : 0;
    std::memcpy(table, &factor, sizeof factor);
    for (std::int64_t g = 0; g < kExact.groups; ++g) {
      store_exact_group(q + 4 * g, table + kUnitHeader + g * kExact.count * kPlane);
    }
  }
}

// Additions to sums are written out: GCC would look up first and add later, or keep old and new
// sums, and has too few registers for either.
inline void add_bytes(__m256i& sum, __m256i x) {
  asm("vpaddb %1, %0, %0" : "+x"(sum) : "x"(x));
}
inline void add_words(__m256i& sum, __m256i x) {
  asm("vpaddw %1, %0, %0" : "+x"(sum) : "x"(x));
}

/// Sums of bytes by plane: of pairs of rows as one 16-bit word, without what does not fit, and of
/// the odd rows, which tell what the even ones are. All look-ups of a unit fit 16 bits.
template <Planes planes>
using WordSums = __m256i[planes.vectors][planes.count][2];

/// Adds the planes of the sums of 4 inputs that the nibbles choose to `bytes`, or begins with them.
template <Planes planes, bool begin>
inline void look_up(const __m256i (&nibbles)[planes.vectors], const std::byte* group,
                    __m256i (&bytes)[planes.vectors][planes.count]) {
#pragma GCC unroll 4
  for (int p = 0; p < planes.count; ++p) {
    const __m256i table = _mm256_broadcastsi128_si256(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(group + p * kPlane)));
#pragma GCC unroll 2
    for (int v = 0; v < planes.vectors; ++v) {
      const __m256i sums = _mm256_shuffle_epi8(table, nibbles[v]);
      if (begin) {
        bytes[v][p] = sums;
      } else {
        add_bytes(bytes[v][p], sums);
      }
    }
  }
}

/// Rows' signs as they lie in memory: a byte per row and step.
struct Packed {
  static constexpr std::int64_t step_bytes(Planes planes) { return planes.rows(); }
  /// Of 32 rows the lower or the upper 4 inputs, as bytes.
  static __m256i nibbles(const std::byte* signs, Planes, int vector, bool upper) {
    const __m256i bytes =
        _mm256_load_si256(reinterpret_cast<const __m256i*>(signs + kVectorRows * vector));
    return _mm256_and_si256(upper ? _mm256_srli_epi16(bytes, 4) : bytes, _mm256_set1_epi8(15));
  }
};
/// Spread for several tokens: two bytes per row and step, [step][half][row].
struct Spread {
  static constexpr std::int64_t step_bytes(Planes planes) { return 2 * planes.rows(); }
  static __m256i nibbles(const std::byte* signs, Planes planes, int vector, bool upper) {
    return _mm256_load_si256(
        reinterpret_cast<const __m256i*>(signs + upper * planes.rows() + kVectorRows * vector));
  }
};

/// The look-ups of kStep inputs.
template <Planes planes, class Signs, bool begin>
inline void take_step(const std::byte* signs, const std::byte* group,
                      __m256i (&bytes)[planes.vectors][planes.count]) {
  __m256i nibbles[planes.vectors];
#pragma GCC unroll 2
  for (int v = 0; v < planes.vectors; ++v) nibbles[v] = Signs::nibbles(signs, planes, v, false);
  look_up<planes, begin>(nibbles, group, bytes);
  // GCC would keep the upper nibbles while it needs their registers for sums.
  asm("" : "+r"(signs));
#pragma GCC unroll 2
  for (int v = 0; v < planes.vectors; ++v) nibbles[v] = Signs::nibbles(signs, planes, v, true);
  look_up<planes, false>(nibbles, group + planes.count * kPlane, bytes);
}

/// The look-ups of one word of every row.
template <Planes planes, class Signs>
inline void take_word(const std::byte* signs, const std::byte* group, WordSums<planes>& sums) {
  constexpr std::int64_t step_tables = 2 * planes.count * kPlane;
  __m256i bytes[planes.vectors][planes.count];
  take_step<planes, Signs, true>(signs, group, bytes);
#pragma GCC unroll 4
  for (int k = 1; k < planes.steps; ++k) {
    take_step<planes, Signs, false>(signs + k * Signs::step_bytes(planes), group + k * step_tables,
                                    bytes);
  }
#pragma GCC unroll 2
  for (int v = 0; v < planes.vectors; ++v) {
#pragma GCC unroll 4
    for (int p = 0; p < planes.count; ++p) {
      add_words(sums[v][p][0], bytes[v][p]);
      add_words(sums[v][p][1], _mm256_srli_epi16(bytes[v][p], 8));
    }
  }
}

/// Whole sums of the even (odd) rows among 0-7 and 16-23 of a vector, or 8-15 and 24-31 (upper).
template <Planes planes, bool odd, bool upper>
inline __m256i whole_sums(const __m256i (&sums)[planes.count][2], __m256i start) {
  const __m256i weights = _mm256_set1_epi32(1 << (16 + planes.bits) | 1);
  const auto of_plane = [&](int p) {
    return odd ? sums[p][1] : _mm256_sub_epi16(sums[p][0], _mm256_slli_epi16(sums[p][1], 8));
  };
#pragma GCC unroll 2
  for (int p = 0; p < planes.count; p += 2) {
    const __m256i a = of_plane(p), b = of_plane(p + 1);
    const __m256i both = upper ? _mm256_unpackhi_epi16(a, b) : _mm256_unpacklo_epi16(a, b);
    start = _mm256_add_epi32(start,
                             _mm256_slli_epi32(_mm256_madd_epi16(both, weights), p * planes.bits));
  }
  return start;
}

/// sums[0..7] and sums[16..23] += factor · whole of even and odd rows.
inline void add_rows(__m256i even, __m256i odd, __m256 factor, float* sums) {
  const __m256i low = _mm256_unpacklo_epi32(even, odd), high = _mm256_unpackhi_epi32(even, odd);
  const auto add_eight = [&](__m256i whole, float* rows) {
    _mm256_storeu_ps(rows,
                     _mm256_fmadd_ps(factor, _mm256_cvtepi32_ps(whole), _mm256_loadu_ps(rows)));
  };
  add_eight(_mm256_permute2x128_si256(low, high, 0x20), sums);
  add_eight(_mm256_permute2x128_si256(low, high, 0x31), sums + 16);
}

/// sums += one unit of planes.rows() rows.
template <Planes planes, class Signs>
inline void add_unit(const std::byte* signs, const std::byte* table, std::int64_t words,
                     float* sums) {
  constexpr std::int64_t word_groups = planes.word_inputs() / 4;
  WordSums<planes> whole;
#pragma GCC unroll 2
  for (auto& vector : whole) {
#pragma GCC unroll 4
    for (auto& plane : vector) plane[0] = plane[1] = _mm256_setzero_si256();
  }
  const std::byte* group = table + kUnitHeader;
  for (std::int64_t word = 0; word < words; ++word) {
    if (std::is_same_v<Signs, Packed>) {
      for (std::int64_t line = 0; line < planes.rows() * planes.steps; line += 64) {
        ask_ahead(signs + line);
      }
    }
    take_word<planes, Signs>(signs, group, whole);
    signs += planes.steps * Signs::step_bytes(planes);
    group += word_groups * planes.count * kPlane;
  }
  float scale;
  std::memcpy(&scale, table, sizeof scale);
  const __m256 factor = _mm256_set1_ps(scale);
  const __m256i start =
      _mm256_set1_epi32(static_cast<std::int32_t>(-words * word_groups * planes.offset));
#pragma GCC unroll 2
  for (int v = 0; v < planes.vectors; ++v) {
    float* rows = sums + kVectorRows * v;
    add_rows(whole_sums<planes, false, false>(whole[v], start),
             whole_sums<planes, true, false>(whole[v], start), factor, rows);
    add_rows(whole_sums<planes, false, true>(whole[v], start),
             whole_sums<planes, true, true>(whole[v], start), factor, rows + 8);
  }
}

/// Calls take(signs, table, words, row) for the units of a chunk and the rows of a block.
template <Planes planes, std::int64_t unit_inputs, class Take>
inline void for_each_unit(const std::byte* signs, const std::byte* table, std::int64_t count,
                          const Take& take) {
  for (; count > 0; count -= unit_inputs) {
    const std::int64_t inputs = count < unit_inputs ? count : unit_inputs;
    const std::int64_t words = (inputs + planes.word_inputs() - 1) / planes.word_inputs();
    for (std::int64_t row = 0; row < kInt8BlockRows; row += planes.rows()) {
      take(signs, table, words, row);
      signs += words * planes.steps * planes.rows();
    }
    table += planes.table_bytes();
  }
}

template <Planes planes, std::int64_t unit_inputs>
void add_chunk(const std::byte* words, const std::byte* table, std::int64_t count, float* sums) {
  for_each_unit<planes, unit_inputs>(
      words, table, count,
      [sums](const std::byte* signs, const std::byte* table, std::int64_t words, std::int64_t row) {
        add_unit<planes, Packed>(signs, table, words, sums + row);
      });
}

template <Planes planes, std::int64_t unit_inputs>
void add_chunk_of_group(const std::byte* words, const std::byte* tables, std::int64_t table_stride,
                        std::int64_t count, float* sums, std::int64_t sums_stride) {
  alignas(64) std::byte spread[planes.inputs() / kStep * Spread::step_bytes(planes)];
  for_each_unit<planes, unit_inputs>(
      words, tables, count,
      [&](const std::byte* signs, const std::byte* table, std::int64_t words, std::int64_t row) {
        std::byte* out = spread;
        for (std::int64_t step = 0; step < words * planes.steps; ++step) {
#pragma GCC unroll 4
          for (int k = 0; k < 2 * planes.vectors; ++k) {
            _mm256_store_si256(
                reinterpret_cast<__m256i*>(out + kVectorRows * k),
                Packed::nibbles(signs, planes, k % planes.vectors, k >= planes.vectors));
          }
          signs += Packed::step_bytes(planes);
          out += Spread::step_bytes(planes);
        }
        for (std::int64_t t = 0; t < kTokenGroup; ++t) {
          add_unit<planes, Spread>(spread, table + t * table_stride, words,
                                   sums + t * sums_stride + row);
        }
      });
}

}  // namespace

constinit const GemvKernels kAvx2Gemv = {
    .exact = {kInt8BlockRows, kExact.inputs(), kExact.word_inputs(), kExact.word_bytes(),
              kExact.table_bytes(), 4, 2, repack_steps<kExact.rows(), kExact.steps>, exact_tables,
              add_chunk<kExact, kExact.inputs()>, add_chunk_of_group<kExact, kExact.inputs()>},
    .int8 = {kInt8BlockRows, kInt8Unit, kInt8.word_inputs(), kInt8.word_bytes(),
             kInt8.table_bytes(), 8, 2, repack_steps<kInt8.rows(), kInt8.steps>, int8_tables,
             add_chunk<kInt8, kInt8Unit>, add_chunk_of_group<kInt8, kInt8Unit>},
    .fp32 = {dense_rows<LoadFp32>},
    .fp16 = {dense_rows<LoadFp16>},
    .int8_rows = {dense_rows<LoadInt8>},
    .dot = dot,
    .mix_fp32 = mix<LoadFp32>,
    .mix_fp16 = mix<LoadFp16>,
    .to_half = to_half,
};

}  // namespace fbi::kernels
