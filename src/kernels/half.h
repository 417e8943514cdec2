#pragma once

#include <bit>
#include <cstdint>

/// IEEE 754 binary16 through the compiler's own type; to nearest even. Not for files with
/// instruction-set flags.
namespace fbi::kernels {

inline std::uint16_t float_to_half(float value) {
  return std::bit_cast<std::uint16_t>(static_cast<_Float16>(value));
}
inline float half_to_float(std::uint16_t bits) {
  return static_cast<float>(std::bit_cast<_Float16>(bits));
}

}  // namespace fbi::kernels
