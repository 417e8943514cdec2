#pragma once

#include <cmath>
#include <cstdint>

using __nv_fp8_storage_t = std::uint8_t;
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };

/// Only what the kernels use: e4m3 (4 bits of exponent, 3 of mantissa, no infinity), to nearest
/// even; beyond 448 it stays at that.
inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float x, __nv_saturation_t,
                                                __nv_fp8_interpretation_t) {
  const std::uint8_t sign = std::signbit(x) ? 0x80 : 0;
  const float magnitude = std::fabs(x);
  if (magnitude != magnitude) return static_cast<std::uint8_t>(sign | 0x7F);
  if (magnitude >= 448) return static_cast<std::uint8_t>(sign | 0x7E);
  int exponent = 0;
  std::frexp(magnitude, &exponent);                        // magnitude < 2^exponent
  const int unit = exponent - 4 < -9 ? -9 : exponent - 4;  // power of two of the last place
  const auto steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, -unit)));
  // 8 to 16 steps of a normal number; a 16 carries into the exponent by the addition.
  const int biased = unit + 10;  // exponent field where steps have their leading one
  return static_cast<std::uint8_t>(sign | (steps < 8 ? steps : ((biased - 1) << 3) + steps));
}
