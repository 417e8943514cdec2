#pragma once

#include <string>
#include <string_view>

namespace fbi::kernels {

/// What a level needs of the processor, and which of it this one lacks ("" when nothing).
inline constexpr std::string_view kAvx512Features =
    "avx512f avx512bw avx512dq avx512vl fma bmi2 popcnt";
inline constexpr std::string_view kAvx2Features = "avx2 fma bmi2 f16c popcnt";
inline constexpr std::string_view kNeonFeatures = "a 64-bit ARM processor";
std::string avx512_declined();
std::string avx2_declined();
std::string neon_declined();

}  // namespace fbi::kernels
