#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "kernels/cpu/unrolled.h"

/// Sixteen lanes in four 128-bit registers; vec16_avx2.h offers the same operations with the same
/// roundings.
namespace fbi::kernels {
namespace {

struct Floats {
  float32x4_t part[4];
};
/// With four registers a row they leave eight of thirty-two.
constexpr int kTileRows = 6;
struct Doubles {
  float64x2_t part[8];
};

/// op of each quarter of the lanes.
template <class Op, class... Lanes>
inline Floats each(const Op& op, const Lanes&... x) {
  return {{op(x.part[0]...), op(x.part[1]...), op(x.part[2]...), op(x.part[3]...)}};
}

/// The numbers of lanes 4·quarter and on.
inline int32x4_t lane_numbers(int quarter) {
  constexpr std::int32_t numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return vld1q_s32(numbers + 4 * quarter);
}

inline Floats splat(float x) {
  const float32x4_t all = vdupq_n_f32(x);
  return {{all, all, all, all}};
}
inline Floats load(const float* x) {
  return {{vld1q_f32(x), vld1q_f32(x + 4), vld1q_f32(x + 8), vld1q_f32(x + 12)}};
}
inline void store(float* out, Floats x) {
  unrolled<4>([&](int i) { vst1q_f32(out + 4 * i, x.part[i]); });
}
inline float32x4_t load_quarter(const float* x, int n) {
  if (n >= 4) return vld1q_f32(x);
  float32x4_t lanes = vdupq_n_f32(0);
  if (n > 0) lanes = vld1q_lane_f32(x, lanes, 0);
  if (n > 1) lanes = vld1q_lane_f32(x + 1, lanes, 1);
  if (n > 2) lanes = vld1q_lane_f32(x + 2, lanes, 2);
  return lanes;
}
inline void store_quarter(float* out, float32x4_t x, int n) {
  if (n >= 4) return vst1q_f32(out, x);
  if (n > 0) vst1q_lane_f32(out, x, 0);
  if (n > 1) vst1q_lane_f32(out + 1, x, 1);
  if (n > 2) vst1q_lane_f32(out + 2, x, 2);
}
/// The first n lanes, n < 16; the others read as 0.
inline Floats load(const float* x, int n) {
  return {{load_quarter(x, n), load_quarter(x + 4, n - 4), load_quarter(x + 8, n - 8),
           load_quarter(x + 12, n - 12)}};
}
inline void store(float* out, Floats x, int n) {
  unrolled<4>([&](int i) { store_quarter(out + 4 * i, x.part[i], n - 4 * i); });
}
inline float32x4_t lanes_where(uint32x4_t mask, float32x4_t x) {
  return vreinterpretq_f32_u32(vandq_u32(mask, vreinterpretq_u32_f32(x)));
}
inline Floats keep_first(Floats x, int n) {
  const int32x4_t count = vdupq_n_s32(n);
  unrolled<4>(
      [&](int i) { x.part[i] = lanes_where(vcltq_s32(lane_numbers(i), count), x.part[i]); });
  return x;
}

inline Floats add(Floats a, Floats b) {
  return each([](float32x4_t x, float32x4_t y) { return vaddq_f32(x, y); }, a, b);
}
inline Floats sub(Floats a, Floats b) {
  return each([](float32x4_t x, float32x4_t y) { return vsubq_f32(x, y); }, a, b);
}
inline Floats mul(Floats a, Floats b) {
  return each([](float32x4_t x, float32x4_t y) { return vmulq_f32(x, y); }, a, b);
}
inline Floats div(Floats a, Floats b) {
  return each([](float32x4_t x, float32x4_t y) { return vdivq_f32(x, y); }, a, b);
}
inline Floats sqrt(Floats a) {
  return each([](float32x4_t x) { return vsqrtq_f32(x); }, a);
}
inline Floats abs(Floats a) {
  return each([](float32x4_t x) { return vabsq_f32(x); }, a);
}
inline Floats fma(Floats a, Floats b, Floats c) {  // ab + c
  return each([](float32x4_t x, float32x4_t y, float32x4_t z) { return vfmaq_f32(z, x, y); }, a, b,
              c);
}
inline Floats fms(Floats a, Floats b, Floats c) {  // ab - c
  return fma(a, b, each([](float32x4_t x) { return vnegq_f32(x); }, c));
}
inline Floats fnma(Floats a, Floats b, Floats c) {  // c - ab
  return each([](float32x4_t x, float32x4_t y, float32x4_t z) { return vfmsq_f32(z, x, y); }, a, b,
              c);
}
/// b where either is NaN, unlike the instructions for it.
inline Floats max(Floats a, Floats b) {
  return each([](float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }, a, b);
}
inline Floats min(Floats a, Floats b) {
  return each([](float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }, a, b);
}
inline float max_lane(Floats x) {
  const float32x4_t a = vmaxq_f32(x.part[0], x.part[1]), b = vmaxq_f32(x.part[2], x.part[3]);
  return vmaxvq_f32(vmaxq_f32(a, b));
}

/// 1, 2, 4, 8, of the lanes of a quarter the bits in a word of sixteen.
inline uint32x4_t lane_bits(int quarter) {
  constexpr std::uint32_t bits[16] = {1u << 0,  1u << 1,  1u << 2,  1u << 3, 1u << 4,  1u << 5,
                                      1u << 6,  1u << 7,  1u << 8,  1u << 9, 1u << 10, 1u << 11,
                                      1u << 12, 1u << 13, 1u << 14, 1u << 15};
  return vld1q_u32(bits + 4 * quarter);
}
/// Bit j: lane j >= 0.
inline std::uint32_t nonnegative(Floats x) {
  uint32x4_t bits = vdupq_n_u32(0);
  unrolled<4>(
      [&](int i) { bits = vorrq_u32(bits, vandq_u32(vcgezq_f32(x.part[i]), lane_bits(i))); });
  return vaddvq_u32(bits);
}
/// All bits of lane j where bit j is 1.
inline uint32x4_t lanes_of_bits(uint32x4_t bits, int quarter) {
  return vtstq_u32(bits, lane_bits(quarter));
}
/// Changes the sign of the lanes whose bit is 0.
inline Floats with_signs(Floats x, std::uint32_t bits) {
  const uint32x4_t all = vdupq_n_u32(bits), sign = vdupq_n_u32(0x80000000u);
  unrolled<4>([&](int i) {
    const uint32x4_t change = vbicq_u32(sign, lanes_of_bits(all, i));
    x.part[i] = vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(x.part[i]), change));
  });
  return x;
}
inline float32x4_t exponent_of(float32x4_t t) {
  return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(t), 23));
}
/// p · 2^(e - 127), e the lowest 8 bits of t; t's next bit must be 0.
inline Floats scale_by_exponent(Floats p, Floats t) {
  return mul(p, each(exponent_of, t));
}

inline Doubles zero_doubles() {
  const float64x2_t zero = vdupq_n_f64(0);
  return {{zero, zero, zero, zero, zero, zero, zero, zero}};
}
inline Doubles load(const double* x) {
  return {{vld1q_f64(x), vld1q_f64(x + 2), vld1q_f64(x + 4), vld1q_f64(x + 6), vld1q_f64(x + 8),
           vld1q_f64(x + 10), vld1q_f64(x + 12), vld1q_f64(x + 14)}};
}
inline void store(double* out, const Doubles& x) {
  unrolled<8>([&](int i) { vst1q_f64(out + 2 * i, x.part[i]); });
}
inline Doubles widen(Floats x) {
  Doubles wide;
  unrolled<4>([&](int i) {
    wide.part[2 * i] = vcvt_f64_f32(vget_low_f32(x.part[i]));
    wide.part[2 * i + 1] = vcvt_high_f64_f32(x.part[i]);
  });
  return wide;
}
inline void accumulate(Doubles& sum, const Doubles& x) {
  unrolled<8>([&](int i) { sum.part[i] = vaddq_f64(sum.part[i], x.part[i]); });
}
/// Adds the lanes whose bit is 1; wide = widen(x).
inline void add_where(Doubles& sum, std::uint32_t bits, Floats x, const Doubles&) {
  const uint32x4_t all = vdupq_n_u32(bits);
  unrolled<4>([&](int i) { x.part[i] = lanes_where(lanes_of_bits(all, i), x.part[i]); });
  accumulate(sum, widen(x));
}
/// A square of an fp32 value is exact in double, so fused and separate operations agree.
inline void accumulate_square(Doubles& sum, const Doubles& x) {
  unrolled<8>([&](int i) { sum.part[i] = vfmaq_f64(sum.part[i], x.part[i], x.part[i]); });
}

inline uint16x4_t bfloat16_bits(float32x4_t x) {
  const uint32x4_t u = vreinterpretq_u32_f32(x);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7FFF)), odd);
  const uint16x4_t number = vmovn_u32(vceqq_f32(x, x));
  return vbsl_u16(number, vshrn_n_u32(rounded, 16), vdup_n_u16(0x7FC0));
}
inline void store_bfloat16(std::uint16_t* out, Floats x) {
  unrolled<4>([&](int i) { vst1_u16(out + 4 * i, bfloat16_bits(x.part[i])); });
}

constexpr int kTransposeRows = 4;
/// kTransposeRows rows and four columns; each column becomes a row, with its shift.
template <bool shifted>
inline void transpose_four_columns(const float* x, std::int64_t x_row, const float* shift,
                                   float* out, std::int64_t out_row) {
  const float32x4_t a = vld1q_f32(x), b = vld1q_f32(x + x_row), c = vld1q_f32(x + 2 * x_row),
                    d = vld1q_f32(x + 3 * x_row);
  const float32x4x2_t ab = vtrnq_f32(a, b), cd = vtrnq_f32(c, d);  // of columns 0 and 2, 1 and 3
  const auto store_row = [&](int j, float32x2_t low, float32x2_t high) {
    const float32x4_t row = vcombine_f32(low, high);
    vst1q_f32(out + j * out_row, shifted ? vaddq_f32(row, vdupq_n_f32(shift[j])) : row);
  };
  unrolled<2>([&](int j) {
    store_row(j, vget_low_f32(ab.val[j]), vget_low_f32(cd.val[j]));
    store_row(j + 2, vget_high_f32(ab.val[j]), vget_high_f32(cd.val[j]));
  });
}

}  // namespace
}  // namespace fbi::kernels
