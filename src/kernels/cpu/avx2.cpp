#include "kernels/cpu/vec16_avx2.h"
#include "kernels/cpu/vec16_table.h"

namespace fbi::kernels {

constinit const CpuKernels kAvx2Kernels = kVec16Kernels;

}  // namespace fbi::kernels
