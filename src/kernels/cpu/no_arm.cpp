#include "kernels/cpu/levels.h"
#include "kernels/cpu_kernels.h"
#include "kernels/gemv_kernels.h"

namespace fbi::kernels {

// Never chosen: the level declines.
constinit const CpuKernels kNeonKernels = {};
constinit const GemvKernels kNeonGemv = {};

std::string neon_declined() {
  return "this build is not for 64-bit ARM";
}

}  // namespace fbi::kernels
