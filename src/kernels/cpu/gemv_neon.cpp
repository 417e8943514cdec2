#include <cstddef>

#include "kernels/cpu/vec16_neon.h"

namespace fbi::kernels {
namespace {

inline Floats load_half(const std::byte* x) {
  const auto* halves = reinterpret_cast<const std::uint16_t*>(x);
  const auto widen_four = [&](int i) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves + i)));
  };
  return {{widen_four(0), widen_four(4), widen_four(8), widen_four(12)}};
}
inline void store_half(std::uint16_t* out, Floats x) {
  unrolled<4>([&](int i) { vst1_u16(out + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.part[i]))); });
}
constexpr int kDenseTokens = 4;
constexpr int kDenseRows = 1;

constexpr int kInt8Rows = 1;
struct Int8Weights {
  int16x8_t low, high;
};
using Int8Inputs = Int8Weights;
struct Int8Sums {
  int32x4_t low, high;
};
inline Int8Weights load_int8(const std::byte* w) {
  const int8x16_t bytes = vld1q_s8(reinterpret_cast<const std::int8_t*>(w));
  return {vmovl_s8(vget_low_s8(bytes)), vmovl_s8(vget_high_s8(bytes))};
}
inline Int8Inputs load_int16(const std::int16_t* q) {
  return {vld1q_s16(q), vld1q_s16(q + 8)};
}
inline void add_products(Int8Sums& sums, const Int8Weights& w, const Int8Inputs& q) {
  sums.low = vmlal_s16(sums.low, vget_low_s16(w.low), vget_low_s16(q.low));
  sums.high = vmlal_s16(sums.high, vget_high_s16(w.low), vget_high_s16(q.low));
  sums.low = vmlal_s16(sums.low, vget_low_s16(w.high), vget_low_s16(q.high));
  sums.high = vmlal_s16(sums.high, vget_high_s16(w.high), vget_high_s16(q.high));
}
inline std::int64_t total(const Int8Sums& sums) {
  return vaddlvq_s32(sums.low) + vaddlvq_s32(sums.high);
}

inline float32x4_t quarter_sum(Floats x) {
  return vaddq_f32(vaddq_f32(x.part[0], x.part[2]), vaddq_f32(x.part[1], x.part[3]));
}
inline float32x4_t sums_of_lanes(Floats a, Floats b, Floats c, Floats d) {
  return vpaddq_f32(vpaddq_f32(quarter_sum(a), quarter_sum(b)),
                    vpaddq_f32(quarter_sum(c), quarter_sum(d)));
}
inline void store_sums(float* out, const Floats (&x)[4]) {
  vst1q_f32(out, sums_of_lanes(x[0], x[1], x[2], x[3]));
}
inline float sum_of_one(Floats x) {
  return vgetq_lane_f32(sums_of_lanes(x, x, x, x), 0);
}

/// Pairs of bytes in a register.
constexpr int kVectorRows = 8;

inline void store_whole(std::int32_t* out, Floats x) {
  unrolled<4>([&](int i) { vst1q_s32(out + 4 * i, vcvtnq_s32_f32(x.part[i])); });
}
inline void store_whole(std::int16_t* out, Floats x) {
  unrolled<4>([&](int i) { vst1_s16(out + 4 * i, vqmovn_s32(vcvtnq_s32_f32(x.part[i]))); });
}
inline Floats sums_of_four(const float* x) {
  const auto sums = [x](int i) {
    const Floats a = abs(load(x + i));
    return vpaddq_f32(vpaddq_f32(a.part[0], a.part[1]), vpaddq_f32(a.part[2], a.part[3]));
  };
  return {{sums(0), sums(16), sums(32), sums(48)}};
}

}  // namespace
}  // namespace fbi::kernels

#include "kernels/cpu/vec16_whole.h"

namespace fbi::kernels {
namespace {

// TBL looks 16 bytes up in two registers: the even bytes of a register, in the lower half of the
// table, stand for four inputs of 8 rows, the odd ones, in the upper half, for four others of the
// same rows. So UADALP adds both to a row's sum at once, and planes can have all 8 bits: per plane
// and 64 signs two instructions. Looking 16 rows up in one register and adding bytes before they
// widen, as AVX2 must, takes a third more for exact sums.
constexpr Planes kInt8Planes{.count = 2, .bits = 8, .steps = 2, .vectors = 4};
constexpr Planes kExactPlanes{.count = 3, .bits = 8, .steps = 2, .vectors = 4};

// A word holds groups 0 to 3 in its nibbles, lowest first; 0 and 2 share a table, 1 and 3.
constexpr std::int64_t kTable = 2 * kPlane;

inline void store_bytes(std::byte* out, uint8x16_t bytes) {
  vst1q_u8(reinterpret_cast<std::uint8_t*>(out), bytes);
}

/// The 16 sums of ±q[0..3], by the bits of their number, as planes kTable bytes apart.
inline void store_int8_group(const std::int16_t* q, std::byte* planes) {
  constexpr std::int16_t signs[3][8] = {
      {-1, 1, -1, 1, -1, 1, -1, 1}, {-1, -1, 1, 1, -1, -1, 1, 1}, {-1, -1, -1, -1, 1, 1, 1, 1}};
  int16x8_t base = vdupq_n_s16(Int8Numbers::kOffset);
  for (int b = 0; b < 3; ++b) base = vmlaq_n_s16(base, vld1q_s16(signs[b]), q[b]);
  const int16x8_t last = vdupq_n_s16(q[3]);
  const uint8x16_t low = vreinterpretq_u8_s16(vsubq_s16(base, last)),
                   high = vreinterpretq_u8_s16(vaddq_s16(base, last));
  store_bytes(planes, vuzp1q_u8(low, high));
  store_bytes(planes + kTable, vuzp2q_u8(low, high));
}
inline void store_exact_group(const std::int32_t* q, std::byte* planes) {
  constexpr std::int32_t signs[2][4] = {{-1, 1, -1, 1}, {-1, -1, 1, 1}};
  int32x4_t base = vdupq_n_s32(ExactNumbers::kOffset);
  for (int b = 0; b < 2; ++b) base = vmlaq_n_s32(base, vld1q_s32(signs[b]), q[b]);
  const int32x4_t third = vdupq_n_s32(q[2]), last = vdupq_n_s32(q[3]);
  const int32x4_t low = vsubq_s32(base, last), high = vaddq_s32(base, last);
  const auto halves = [](int32x4_t sums) { return vreinterpretq_u16_s32(sums); };
  const uint16x8_t a = halves(vsubq_s32(low, third)), b = halves(vaddq_s32(low, third)),
                   c = halves(vsubq_s32(high, third)), d = halves(vaddq_s32(high, third));
  const auto bytes = [](uint16x8_t x) { return vreinterpretq_u8_u16(x); };
  const uint8x16_t lower_ab = bytes(vuzp1q_u16(a, b)), lower_cd = bytes(vuzp1q_u16(c, d)),
                   upper_ab = bytes(vuzp2q_u16(a, b)), upper_cd = bytes(vuzp2q_u16(c, d));
  store_bytes(planes, vuzp1q_u8(lower_ab, lower_cd));
  store_bytes(planes + kTable, vuzp2q_u8(lower_ab, lower_cd));
  store_bytes(planes + 2 * kTable, vuzp1q_u8(upper_ab, upper_cd));
}

template <Planes planes>
using RowSums = uint16x8_t[planes.vectors][planes.count];

/// Adds what the lower or the upper nibbles of one word of every row choose in two groups' tables.
template <Planes planes, bool upper>
inline void look_up(const std::byte* words, const std::uint8_t* tables, RowSums<planes>& sums) {
  const uint8x16_t half = vreinterpretq_u8_u16(vdupq_n_u16(0x1000));  // of a table, by odd bytes
  uint8x16_t index[planes.vectors];
#pragma GCC unroll 4
  for (int v = 0; v < planes.vectors; ++v) {
    const uint8x16_t signs = vld1q_u8(reinterpret_cast<const std::uint8_t*>(words) + 16 * v);
    index[v] = upper ? vsriq_n_u8(half, signs, 4) : vbslq_u8(vdupq_n_u8(15), signs, half);
  }
#pragma GCC unroll 3
  for (int p = 0; p < planes.count; ++p) {
    const uint8x16x2_t table = vld1q_u8_x2(tables + p * kTable);
#pragma GCC unroll 4
    for (int v = 0; v < planes.vectors; ++v) {
      sums[v][p] = vpadalq_u8(sums[v][p], vqtbl2q_u8(table, index[v]));
    }
  }
}

/// rows[0..3] += factor · (the planes' sums, put together, + start)
template <Planes planes>
inline void add_rows(const uint16x4_t (&sums)[planes.count], int32x4_t start, float factor,
                     float* rows) {
#pragma GCC unroll 3
  for (int p = 0; p < planes.count; ++p) {
    const auto plane = vreinterpretq_s32_u32(vmovl_u16(sums[p]));
    start = vmlaq_n_s32(start, plane, 1 << p * planes.bits);
  }
  vst1q_f32(rows, vfmaq_f32(vld1q_f32(rows), vdupq_n_f32(factor), vcvtq_f32_s32(start)));
}

/// sums += one unit of planes.rows() rows.
template <Planes planes, std::int32_t offset>
inline void add_unit(const std::byte* signs, const std::byte* table, std::int64_t words,
                     float* sums) {
  constexpr std::int64_t word_groups = planes.word_inputs() / 4;
  RowSums<planes> whole;
#pragma GCC unroll 4
  for (auto& vector : whole) {
#pragma GCC unroll 3
    for (auto& plane : vector) plane = vdupq_n_u16(0);
  }
  const auto* tables = reinterpret_cast<const std::uint8_t*>(table + kUnitHeader);
  for (std::int64_t word = 0; word < words; ++word) {
    ask_ahead<1>(signs);
    look_up<planes, false>(signs, tables, whole);
    look_up<planes, true>(signs, tables + planes.count * kTable, whole);
    signs += planes.steps * planes.rows();
    tables += word_groups * planes.count * kPlane;
  }
  float factor;
  std::memcpy(&factor, table, sizeof factor);
  const int32x4_t start = vdupq_n_s32(static_cast<std::int32_t>(-words * word_groups * offset));
#pragma GCC unroll 4
  for (int v = 0; v < planes.vectors; ++v) {
    uint16x4_t low[planes.count], high[planes.count];
#pragma GCC unroll 3
    for (int p = 0; p < planes.count; ++p) {
      low[p] = vget_low_u16(whole[v][p]);
      high[p] = vget_high_u16(whole[v][p]);
    }
    add_rows<planes>(low, start, factor, sums + kVectorRows * v);
    add_rows<planes>(high, start, factor, sums + kVectorRows * v + 4);
  }
}

template <class Numbers, Planes cut, auto store>
struct Product : WholeProduct<Numbers, cut, store> {
  static constexpr std::int64_t group_place(std::int64_t group) {
    const std::int64_t word = group / 4, pair = group % 2, half = group % 4 / 2;
    return (2 * word + pair) * cut.count * kTable + half * kPlane;
  }
  static void add_unit(const std::byte* signs, const std::byte* table, std::int64_t words,
                       float* sums) {
    kernels::add_unit<cut, Numbers::kOffset>(signs, table, words, sums);
  }
};
using Exact = Product<ExactNumbers, kExactPlanes, store_exact_group>;
using Int8 = Product<Int8Numbers, kInt8Planes, store_int8_group>;

}  // namespace

constinit const GemvKernels kNeonGemv =
    vec16_gemv(whole_product<Exact>(8, repack_pairs<kExactPlanes.rows()>, nullptr),
               whole_product<Int8>(8, repack_pairs<kInt8Planes.rows()>, nullptr));

}  // namespace fbi::kernels
