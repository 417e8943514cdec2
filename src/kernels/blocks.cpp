#include "kernels/blocks.h"

#include "fbi/core/error.h"

namespace fbi::kernels {

std::vector<double> sum_row_blocks(
    std::int64_t rows, std::int64_t width, ParallelFor& parallel,
    const std::function<void(std::int64_t, std::int64_t, double*)>& add) {
  const std::int64_t blocks = (rows + kRowBlock - 1) / kRowBlock;
  std::vector<double> partial(static_cast<std::size_t>(std::max<std::int64_t>(1, blocks) * width));
  parallel.run(0, blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      add(block * kRowBlock, std::min(rows, (block + 1) * kRowBlock), &partial[block * width]);
    }
  });
  parallel.run(0, width, kGrainElements / 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = 1; block < blocks; ++block) {
      for (std::int64_t i = begin; i < end; ++i) partial[i] += partial[block * width + i];
    }
  });
  partial.resize(static_cast<std::size_t>(width));
  return partial;
}

void check_strides(ScaleStrides strides) {
  if ((strides.row == 0 || strides.row == 1) && (strides.column == 0 || strides.column == 1) &&
      strides.row + strides.column < 2) {
    return;
  }
  throw UsageError(
      concat("strides of alpha and beta: expected {0, 1} (column), {1, 0} (row) or {0, 0} "
             "(single), found {",
             strides.row, ", ", strides.column, "}"));
}

}  // namespace fbi::kernels
