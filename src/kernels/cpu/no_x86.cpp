#include "kernels/cpu/levels.h"
#include "kernels/cpu_kernels.h"
#include "kernels/gemv_kernels.h"

namespace fbi::kernels {

// Never chosen: both levels decline.
constinit const CpuKernels kAvx512Kernels = {};
constinit const CpuKernels kAvx2Kernels = {};
constinit const GemvKernels kAvx512Gemv = {};
constinit const GemvKernels kAvx2Gemv = {};

std::string avx512_declined() {
  return "this build is not for x86-64";
}
std::string avx2_declined() {
  return "this build is not for x86-64";
}

}  // namespace fbi::kernels
