#pragma once

#include <bit>
#include <cstdint>

/// IEEE 754 binary16 through the compiler's own type; to nearest even. Not for files with
/// instruction-set flags.
namespace fbi::kernels {

#if defined(__aarch64__)
using Binary16 = __fp16;  // GCC 12 has no _Float16 there
#else
using Binary16 = _Float16;
#endif

inline std::uint16_t float_to_half(float value) {
  return std::bit_cast<std::uint16_t>(static_cast<Binary16>(value));
}
inline float half_to_float(std::uint16_t bits) {
  return static_cast<float>(std::bit_cast<Binary16>(bits));
}

}  // namespace fbi::kernels
