#include "fbi/kernels/convert.h"

#include "kernels/blocks.h"
#include "kernels/dispatch.h"

namespace fbi::kernels {

void to_bfloat16(const float* x, std::int64_t count, std::uint16_t* out, ParallelFor& parallel) {
  const CpuKernels& kernels = cpu_kernels();
  parallel.run(0, count, kGrainElements, [&](std::int64_t begin, std::int64_t end) {
    kernels.to_bfloat16(x + begin, end - begin, out + begin);
  });
}

void from_bfloat16(const std::uint16_t* x, std::int64_t count, float* out, ParallelFor& parallel) {
  const CpuKernels& kernels = cpu_kernels();
  parallel.run(0, count, kGrainElements, [&](std::int64_t begin, std::int64_t end) {
    kernels.from_bfloat16(x + begin, end - begin, out + begin);
  });
}

}  // namespace fbi::kernels
