#include "kernels/cpu/levels.h"

namespace fbi::kernels {

/// Takes the place of levels_x86.cpp: emulated, the kernels for AVX-512 need what those for AVX2
/// do.
std::string avx512_declined() {
  return avx2_declined();
}

std::string avx2_declined() {
  const bool present = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                       __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c") &&
                       __builtin_cpu_supports("popcnt");
  return present ? "" : "processor lacks AVX2";
}

}  // namespace fbi::kernels
