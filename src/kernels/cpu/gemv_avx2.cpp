#include <cstddef>
#include <type_traits>

#include "kernels/cpu/int8_rows_x86.h"
#include "kernels/cpu/vec16_avx2.h"
#include "kernels/cpu/vec16_gemv_x86.h"

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
constexpr int kDenseTokens = 4;
constexpr int kDenseRows = 1;
constexpr int kInt8Rows = 4;

constexpr int kVectorRows = 32;

inline void store_whole(std::int32_t* out, Floats x) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(out), _mm256_cvtps_epi32(x.low));
  _mm256_store_si256(reinterpret_cast<__m256i*>(out + 8), _mm256_cvtps_epi32(x.high));
}
inline void store_whole(std::int16_t* out, Floats x) {
  const __m256i packed = _mm256_packs_epi32(_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high));
  _mm256_store_si256(reinterpret_cast<__m256i*>(out),
                     _mm256_permute4x64_epi64(packed, _MM_SHUFFLE(3, 1, 2, 0)));
}
inline Floats sums_of_four(const float* x) {
  const auto of_pairs = [x](int i) {
    const Floats a = abs(load(x + i));
    return _mm256_hadd_ps(a.low, a.high);
  };
  return {_mm256_hadd_ps(of_pairs(0), of_pairs(16)), _mm256_hadd_ps(of_pairs(32), of_pairs(48))};
}

}  // namespace
}  // namespace fbi::kernels

#include "kernels/cpu/lines_avx2.h"
#include "kernels/cpu/vec16_whole.h"

namespace fbi::kernels {
namespace {

// vpshufb looks 32 rows up; planes have 5 or 6 bits, so that 8 or 4 results fit a byte. vpermps,
// which looks fp32 sums up, takes 3 inputs and 8 rows at a time and was two thirds as fast.
constexpr Planes kInt8Planes{.count = 2, .bits = 5, .steps = 4, .vectors = 2};
constexpr Planes kExactPlanes{.count = 4, .bits = 6, .steps = 2, .vectors = 1};

/// Cuts 16 values of two planes' bits.
template <int bits>
inline void store_planes(__m256i values, std::byte* planes) {
  const __m256i lower = _mm256_and_si256(values, _mm256_set1_epi16((1 << bits) - 1)),
                upper = _mm256_srli_epi16(values, bits);
  const __m256i packed = _mm256_packus_epi16(lower, upper);  // 8 lower, 8 upper, 8 lower, 8 upper
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(planes),
                      _mm256_permute4x64_epi64(packed, _MM_SHUFFLE(3, 1, 2, 0)));
}

/// The 16 sums of ±q[0..3], by the bits of their number, as planes.
inline void store_int8_group(const std::int16_t* q, std::byte* planes) {
  const __m256i sign[4] = {
      _mm256_set1_epi32(0x0001FFFF), _mm256_set1_epi64x(0x00010001FFFFFFFF),
      _mm256_setr_epi64x(-1, 0x0001000100010001, -1, 0x0001000100010001),
      _mm256_setr_epi64x(-1, -1, 0x0001000100010001,
                         0x0001000100010001)};  // of the bits of a 16-bit lane's number
  __m256i sum = _mm256_set1_epi16(Int8Numbers::kOffset);
  for (int b = 0; b < 4; ++b) {
    sum = _mm256_add_epi16(sum, _mm256_sign_epi16(_mm256_set1_epi16(q[b]), sign[b]));
  }
  store_planes<kInt8Planes.bits>(sum, planes);
}

inline void store_exact_group(const std::int32_t* q, std::byte* planes) {
  // Lanes of `base` stand for sums 0-3 and 8-11 without q[2]; so packing in 128-bit halves ends in
  // order.
  const __m256i bit0 = _mm256_setr_epi32(-1, 1, -1, 1, -1, 1, -1, 1),
                bit1 = _mm256_setr_epi32(-1, -1, 1, 1, -1, -1, 1, 1);
  const __m256i bit3 = _mm256_setr_epi32(-1, -1, -1, -1, 1, 1, 1, 1),
                two_planes = _mm256_set1_epi32((1 << 2 * kExactPlanes.bits) - 1);
  __m256i base = _mm256_add_epi32(_mm256_set1_epi32(ExactNumbers::kOffset),
                                  _mm256_sign_epi32(_mm256_set1_epi32(q[0]), bit0));
  base = _mm256_add_epi32(base, _mm256_sign_epi32(_mm256_set1_epi32(q[1]), bit1));
  base = _mm256_add_epi32(base, _mm256_sign_epi32(_mm256_set1_epi32(q[3]), bit3));
  const __m256i third = _mm256_set1_epi32(q[2]);
  const __m256i a = _mm256_sub_epi32(base, third), b = _mm256_add_epi32(base, third);
  store_planes<kExactPlanes.bits>(
      _mm256_packus_epi32(_mm256_and_si256(a, two_planes), _mm256_and_si256(b, two_planes)),
      planes);
  store_planes<kExactPlanes.bits>(_mm256_packus_epi32(_mm256_srli_epi32(a, 2 * kExactPlanes.bits),
                                                      _mm256_srli_epi32(b, 2 * kExactPlanes.bits)),
                                  planes + 2 * kPlane);
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
template <Planes planes, std::int32_t offset, class Signs>
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
        ask_ahead<1>(signs + line);
      }
    }
    take_word<planes, Signs>(signs, group, whole);
    signs += planes.steps * Signs::step_bytes(planes);
    group += word_groups * planes.count * kPlane;
  }
  float scale;
  std::memcpy(&scale, table, sizeof scale);
  const __m256 factor = _mm256_set1_ps(scale);
  const __m256i start = _mm256_set1_epi32(static_cast<std::int32_t>(-words * word_groups * offset));
#pragma GCC unroll 2
  for (int v = 0; v < planes.vectors; ++v) {
    float* rows = sums + kVectorRows * v;
    add_rows(whole_sums<planes, false, false>(whole[v], start),
             whole_sums<planes, true, false>(whole[v], start), factor, rows);
    add_rows(whole_sums<planes, false, true>(whole[v], start),
             whole_sums<planes, true, true>(whole[v], start), factor, rows + 8);
  }
}

template <class Product>
void whole_chunk_of_group(const std::byte* words, const std::byte* tables,
                          std::int64_t table_stride, std::int64_t count, float* sums,
                          std::int64_t sums_stride) {
  constexpr Planes planes = Product::planes;
  alignas(64) std::byte spread[kWholeInputs / kStep * Spread::step_bytes(planes)];
  for_each_unit<Product>(
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
          add_unit<planes, Product::kOffset, Spread>(spread, table + t * table_stride, words,
                                                     sums + t * sums_stride + row);
        }
      });
}

template <class Numbers, Planes cut, auto store, class TokenLine>
struct Product : WholeProduct<Numbers, cut, store> {
  static constexpr std::int64_t group_place(std::int64_t group) {
    return group * cut.count * kPlane;
  }
  static void add_unit(const std::byte* signs, const std::byte* table, std::int64_t words,
                       float* sums) {
    kernels::add_unit<cut, Numbers::kOffset, Packed>(signs, table, words, sums);
  }

  using Line = TokenLine;
  static constexpr LaneWalk walk{.step_inputs = kStep,
                                 .sign_bytes = 1,
                                 .rows_together = cut.rows(),
                                 .block_rows = kInt8BlockRows,
                                 .steps_together = cut.steps,
                                 .pass_steps = kWordInputs / kStep,
                                 .rest_steps = kWordInputs / kStep,
                                 .sum_inputs = Numbers::kInputs,
                                 .first_number = kUnitHeader,
                                 .step_numbers = kStep * sizeof(std::int32_t),
                                 .sum_numbers = cut.table_bytes()};
  template <int>
  static void read_signs(const std::byte* signs, std::int64_t stride, std::int64_t left,
                         std::uint64_t (&words)[kWordRows]) {
    words_of_bytes(signs, stride, left, words);
  }
};
using Exact = Product<ExactNumbers, kExactPlanes, store_exact_group, ExactLine>;
using Int8 = Product<Int8Numbers, kInt8Planes, store_int8_group, Int8Line>;

template <class Product>
constexpr LaneProduct whole_lanes(std::int64_t least) {
  return lane_product<Product>(least, whole_inputs<Product>);
}

}  // namespace

constinit const GemvKernels kAvx2Gemv =
    vec16_gemv(whole_product<Exact>(4, repack_steps<kExactPlanes.rows(), kExactPlanes.steps>,
                                    whole_chunk_of_group<Exact>, whole_lanes<Exact>(11)),
               whole_product<Int8>(8, repack_steps<kInt8Planes.rows(), kInt8Planes.steps>,
                                   whole_chunk_of_group<Int8>, whole_lanes<Int8>(22)));

}  // namespace fbi::kernels
