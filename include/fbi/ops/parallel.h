#pragma once

#include "fbi/core/parallel.h"

namespace fbi::ops {

/// The ParallelFor of every process that uses LibTorch: kernels run on LibTorch's own pool
/// (at::parallel_for).
ParallelFor& torch_parallel_for();

/// Number of threads of LibTorch and of torch_parallel_for(); 0 takes OMP_NUM_THREADS, or else all
/// usable processors. Call before any work.
void set_threads(int threads);

}  // namespace fbi::ops
