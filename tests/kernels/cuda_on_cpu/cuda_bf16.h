#pragma once

#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
  std::uint16_t bits;
};

/// To nearest even; NaN becomes 0x7FFF, as on a device.
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  std::uint32_t u;
  std::memcpy(&u, &x, sizeof u);
  if (x != x) return {0x7FFF};
  return {static_cast<std::uint16_t>((u + 0x7FFF + (u >> 16 & 1)) >> 16)};
}
inline float __bfloat162float(__nv_bfloat16 x) {
  const std::uint32_t u = std::uint32_t{x.bits} << 16;
  float result;
  std::memcpy(&result, &u, sizeof result);
  return result;
}
