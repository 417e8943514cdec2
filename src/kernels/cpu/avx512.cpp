#include "kernels/cpu/vec16_avx512.h"
#include "kernels/cpu/vec16_table.h"

namespace fbi::kernels {

constinit const CpuKernels kAvx512Kernels = kVec16Kernels;

}  // namespace fbi::kernels
