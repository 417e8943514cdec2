#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "fbi/core/parallel.h"
#include "fbi/kernels/binary_matrix.h"

/// How work is cut. Sums are formed per block of a size that depends on the shape alone and added
/// in block order, so no result depends on the number of threads.
namespace fbi::kernels {

/// Elements that are worth handing to another thread.
inline constexpr std::int64_t kGrainElements = 1 << 15;
/// Rows of one block of column sums: small enough for many threads, large enough that the partial
/// sums are a few per cent of the matrix.
inline constexpr std::int64_t kRowBlock = 128;

inline std::int64_t grain_rows(std::int64_t columns) {
  return std::max<std::int64_t>(1, kGrainElements / std::max<std::int64_t>(1, columns));
}

/// add(first_row, end_row, sums[width]) adds its rows to sums; returns the sums over all rows.
std::vector<double> sum_row_blocks(
    std::int64_t rows, std::int64_t width, ParallelFor& parallel,
    const std::function<void(std::int64_t, std::int64_t, double*)>& add);

/// Throws UsageError unless alpha and beta belong to columns, rows or the whole matrix.
void check_strides(ScaleStrides strides);

}  // namespace fbi::kernels
