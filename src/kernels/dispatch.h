#pragma once

#include "kernels/cpu_kernels.h"

namespace fbi::kernels {

/// The kernels of chosen_level().
const CpuKernels& cpu_kernels();

}  // namespace fbi::kernels
