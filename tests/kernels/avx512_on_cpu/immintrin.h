#pragma once

#include_next <immintrin.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

/// The kernels for AVX-512 on a processor with AVX2, so that they are tested wherever tests run:
/// this folder comes first among the include folders, and SIMDe replaces the intrinsics by loops
/// and narrower instructions. Here is what the kernels use and SIMDe lacks. It tells what the
/// kernels compute, nothing about their speed.

namespace fbi::kernels::emulated {

/// The lanes of a register, each of type T.
template <typename T, typename Register>
struct Lanes {
  static constexpr int kCount = sizeof(Register) / sizeof(T);
  T at[kCount];

  Lanes() = default;
  explicit Lanes(const Register& x) { std::memcpy(at, &x, sizeof x); }
  Register whole() const {
    Register x;
    std::memcpy(&x, at, sizeof x);
    return x;
  }
};

/// Each lane changed from type In to type Out.
template <typename Out, typename OutRegister, typename In, typename InRegister, typename Change>
inline OutRegister convert(const InRegister& x, Change change) {
  const Lanes<In, InRegister> in(x);
  Lanes<Out, OutRegister> out;
  static_assert(in.kCount == out.kCount);
  for (int i = 0; i < in.kCount; ++i) out.at[i] = static_cast<Out>(change(in.at[i]));
  return out.whole();
}
template <typename Out, typename OutRegister, typename In, typename InRegister>
inline OutRegister convert(const InRegister& x) {
  return convert<Out, OutRegister, In>(x, [](In lane) { return lane; });
}

inline __m512i int16_to_int32(__m256i x) {
  return convert<std::int32_t, __m512i, std::int16_t>(x);
}
inline __m512i uint16_to_int32(__m256i x) {
  return convert<std::int32_t, __m512i, std::uint16_t>(x);
}
inline __m512i uint16_to_int64(__m128i x) {
  return convert<std::int64_t, __m512i, std::uint16_t>(x);
}
inline __m512i uint32_to_int64(__m256i x) {
  return convert<std::int64_t, __m512i, std::uint32_t>(x);
}
inline __m512i int8_to_int32(__m128i x) {
  return convert<std::int32_t, __m512i, std::int8_t>(x);
}
inline __m256i int32_to_int16(__m512i x) {
  return convert<std::int16_t, __m256i, std::int32_t>(x);
}
inline __m512 int32_to_float(__m512i x) {
  return convert<float, __m512, std::int32_t>(x);
}
inline __m512i float_to_int32(__m512 x) {
  return convert<std::int32_t, __m512i, float>(x, [](float lane) { return std::nearbyint(lane); });
}
inline __m512d float_to_double(__m256 x) {
  return convert<double, __m512d, float>(x);
}

inline __m512 half_to_float(__m256i x) {
  const Lanes<__m128i, __m256i> in(x);
  Lanes<__m256, __m512> out;
  for (int i = 0; i < 2; ++i) out.at[i] = _mm256_cvtph_ps(in.at[i]);
  return out.whole();
}
template <int rounding>
inline __m256i float_to_half(__m512 x) {
  const Lanes<__m256, __m512> in(x);
  Lanes<__m128i, __m256i> out;
  for (int i = 0; i < 2; ++i) out.at[i] = _mm256_cvtps_ph(in.at[i], rounding);
  return out.whole();
}

inline __m256 eight_floats(__m512 x, int which) {
  return Lanes<__m256, __m512>(x).at[which];
}
inline float largest(__m512 x) {
  const Lanes<float, __m512> in(x);
  float result = in.at[0];
  for (const float lane : in.at) result = lane > result ? lane : result;
  return result;
}

inline __m512 load_floats(__mmask16 mask, const void* from) {
  Lanes<float, __m512> out;
  for (int i = 0; i < out.kCount; ++i) {
    out.at[i] = mask >> i & 1 ? static_cast<const float*>(from)[i] : 0;
  }
  return out.whole();
}
inline void store_floats(void* to, __mmask16 mask, __m512 x) {
  const Lanes<float, __m512> in(x);
  for (int i = 0; i < in.kCount; ++i) {
    if (mask >> i & 1) static_cast<float*>(to)[i] = in.at[i];
  }
}
inline __m512i subtract_int16(__m512i otherwise, __mmask32 mask, __m512i a, __m512i b) {
  const Lanes<std::int16_t, __m512i> left(a), right(b);
  Lanes<std::int16_t, __m512i> out(otherwise);
  for (int i = 0; i < out.kCount; ++i) {
    if (mask >> i & 1) out.at[i] = static_cast<std::int16_t>(left.at[i] - right.at[i]);
  }
  return out.whole();
}

}  // namespace fbi::kernels::emulated

#undef _mm512_cvtps_ph  // of the compiler's own header, at -O0
#undef _mm512_extractf32x8_ps
#define _mm512_cvtepi16_epi32 ::fbi::kernels::emulated::int16_to_int32
#define _mm512_cvtepu16_epi32 ::fbi::kernels::emulated::uint16_to_int32
#define _mm512_cvtepu16_epi64 ::fbi::kernels::emulated::uint16_to_int64
#define _mm512_cvtepu32_epi64 ::fbi::kernels::emulated::uint32_to_int64
#define _mm512_cvtepi8_epi32 ::fbi::kernels::emulated::int8_to_int32
#define _mm512_cvtepi32_epi16 ::fbi::kernels::emulated::int32_to_int16
#define _mm512_cvtepi32_ps ::fbi::kernels::emulated::int32_to_float
#define _mm512_cvtps_epi32 ::fbi::kernels::emulated::float_to_int32
#define _mm512_cvtps_pd ::fbi::kernels::emulated::float_to_double
#define _mm512_cvtph_ps ::fbi::kernels::emulated::half_to_float
#define _mm512_cvtps_ph(x, rounding) ::fbi::kernels::emulated::float_to_half<rounding>(x)
#define _mm512_extractf32x8_ps ::fbi::kernels::emulated::eight_floats
#define _mm512_reduce_max_ps ::fbi::kernels::emulated::largest
#define _mm512_maskz_loadu_ps ::fbi::kernels::emulated::load_floats
#define _mm512_mask_storeu_ps ::fbi::kernels::emulated::store_floats
#define _mm512_mask_sub_epi16 ::fbi::kernels::emulated::subtract_int16
/// The kernels' only assembly keeps values in 512-bit registers, which are not there.
#define asm(...) static_cast<void>(0)
