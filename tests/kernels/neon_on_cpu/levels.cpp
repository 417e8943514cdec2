#include "kernels/cpu/levels.h"

namespace fbi::kernels {

/// Takes the place of levels_arm.cpp: emulated, the kernels need what the flags promise that they
/// are compiled with.
std::string neon_declined() {
  return avx2_declined();
}

}  // namespace fbi::kernels
