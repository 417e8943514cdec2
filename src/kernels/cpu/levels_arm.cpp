#include "kernels/cpu/levels.h"

namespace fbi::kernels {

// Every AArch64 processor has NEON with the instructions that these kernels use.
std::string neon_declined() {
  return {};
}

}  // namespace fbi::kernels
