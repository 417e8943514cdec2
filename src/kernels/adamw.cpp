#include "fbi/kernels/adamw.h"

#include <atomic>
#include <vector>

#include "kernels/adamw_constants.h"
#include "kernels/blocks.h"
#include "kernels/dispatch.h"

namespace fbi::kernels {
namespace {

/// Elements per partial sum of sum_of_squares.
constexpr std::int64_t kSumBlock = 1 << 16;

}  // namespace

void adamw(float* value, float* moment1, float* moment2, const float* grad, std::int64_t count,
           const AdamWStep& step, ParallelFor& parallel) {
  const CpuKernels& kernels = cpu_kernels();
  const AdamWConstants constants = constants_of(step);
  parallel.run(0, count, kGrainElements, [&](std::int64_t begin, std::int64_t end) {
    kernels.adamw(value + begin, moment1 + begin, moment2 + begin, grad + begin, end - begin,
                  constants);
  });
}

std::int64_t adamw_latent(float* latent, float* moment1, float* moment2, const float* raw_grad,
                          const float* alpha, ScaleStrides strides, MatrixShape shape,
                          std::uint8_t* bits, const AdamWStep& step, ParallelFor& parallel) {
  check_strides(strides);
  const CpuKernels& kernels = cpu_kernels();
  const AdamWConstants constants = constants_of(step);
  const std::int64_t columns = shape.columns;
  std::atomic<std::int64_t> flips = 0;
  parallel.run(0, shape.rows, grain_rows(columns), [&](std::int64_t begin, std::int64_t end) {
    std::int64_t range_flips = 0;
    for (std::int64_t o = begin; o < end; ++o) {
      const LatentRow row = {.latent = latent + o * columns,
                             .moment1 = moment1 + o * columns,
                             .moment2 = moment2 + o * columns,
                             .raw_grad = raw_grad + o * columns,
                             .alpha = alpha + o * strides.row,
                             .per_column = strides.column != 0,
                             .columns = columns,
                             .bits = bits + o * row_bytes(columns)};
      range_flips += kernels.adamw_latent_row(row, constants);
    }
    flips += range_flips;
  });
  return flips;
}

double sum_of_squares(const float* x, std::int64_t count, ParallelFor& parallel) {
  const CpuKernels& kernels = cpu_kernels();
  std::vector<double> partial(static_cast<std::size_t>((count + kSumBlock - 1) / kSumBlock));
  parallel.run(0, std::ssize(partial), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t first = block * kSumBlock;
      partial[block] = kernels.sum_of_squares(x + first, std::min(kSumBlock, count - first));
    }
  });
  double sum = 0;
  for (double value : partial) sum += value;
  return sum;
}

}  // namespace fbi::kernels
