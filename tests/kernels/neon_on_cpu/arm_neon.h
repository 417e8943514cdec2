#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/arm/neon.h>

/// The kernels for NEON on another processor, so that they are tested wherever tests run: this
/// folder comes first among the include folders, and SIMDe replaces the intrinsics. Here is what
/// the kernels use and SIMDe lacks, or rounds twice. It tells what the kernels compute, nothing
/// about their speed.

namespace fbi::kernels::emulated {

/// One lane of Out for each lane of x.
template <typename Out, typename In, typename... More, typename Change>
inline Out per_lane(const Change& change, const In& x, const More&... more) {
  Out out;
  for (unsigned i = 0; i < sizeof out / sizeof out[0]; ++i) out[i] = change(x[i], more[i]...);
  return out;
}

inline float32x4_t divide(float32x4_t a, float32x4_t b) {
  return per_lane<float32x4_t>([](float x, float y) { return x / y; }, a, b);
}
inline float32x4_t square_root(float32x4_t a) {
  return per_lane<float32x4_t>([](float x) { return std::sqrt(x); }, a);
}
inline float32x4_t add_product(float32x4_t sum, float32x4_t a, float32x4_t b) {
  return per_lane<float32x4_t>([](float s, float x, float y) { return std::fma(x, y, s); }, sum, a,
                               b);
}
inline float32x4_t subtract_product(float32x4_t sum, float32x4_t a, float32x4_t b) {
  return per_lane<float32x4_t>([](float s, float x, float y) { return std::fma(-x, y, s); }, sum, a,
                               b);
}
inline float64x2_t widen_upper(float32x4_t x) {
  return float64x2_t{x[2], x[3]};
}
inline int32x4_t nearest(float32x4_t x) {
  return per_lane<int32x4_t>(
      [](float lane) { return static_cast<std::int32_t>(std::nearbyint(lane)); }, x);
}

}  // namespace fbi::kernels::emulated

#define vdivq_f32 ::fbi::kernels::emulated::divide
#define vsqrtq_f32 ::fbi::kernels::emulated::square_root
#undef vfmaq_f32
#define vfmaq_f32 ::fbi::kernels::emulated::add_product
#define vfmsq_f32 ::fbi::kernels::emulated::subtract_product
#define vcvt_high_f64_f32 ::fbi::kernels::emulated::widen_upper
#define vcvtnq_s32_f32 ::fbi::kernels::emulated::nearest
