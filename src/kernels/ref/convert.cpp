#include <bit>
#include <cmath>

#include "kernels/ref/ref.h"

namespace fbi::kernels::ref {

void to_bfloat16(const float* x, std::int64_t count, std::uint16_t* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    const auto u = std::bit_cast<std::uint32_t>(x[i]);
    const std::uint32_t rounded = (u + 0x7FFF + (u >> 16 & 1)) >> 16;
    out[i] = std::isnan(x[i]) ? 0x7FC0 : static_cast<std::uint16_t>(rounded);
  }
}

void from_bfloat16(const std::uint16_t* x, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    out[i] = std::bit_cast<float>(std::uint32_t{x[i]} << 16);
  }
}

}  // namespace fbi::kernels::ref
