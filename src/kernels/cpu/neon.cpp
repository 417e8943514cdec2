#include "kernels/cpu/vec16_neon.h"
#include "kernels/cpu/vec16_table.h"

namespace fbi::kernels {

constinit const CpuKernels kNeonKernels = kVec16Kernels;

}  // namespace fbi::kernels
