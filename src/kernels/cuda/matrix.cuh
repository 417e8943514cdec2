#pragma once

#include <algorithm>

#include "fbi/kernels/binary_matrix.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

/// How a matrix is cut: a thread has a group of neighbouring columns and goes down some rows.
namespace fbi::kernels::cuda {
namespace {

constexpr int kMatrixThreads = 128;

/// The part of one thread. Groups beyond the last column have count <= 0 and go along, for what a
/// warp does together.
struct Part {
  std::int64_t group, column, count;  ///< count: columns from `column` on, cut at `size`
  std::int64_t row, end_row;
};
template <int size>
__device__ inline Part part_of(MatrixShape shape, int rows_of_block) {
  Part part;
  part.group = std::int64_t{blockIdx.x} * kMatrixThreads + threadIdx.x;
  part.column = part.group * size;
  part.count = shape.columns - part.column;
  if (part.count > size) part.count = size;
  part.row = std::int64_t{blockIdx.y} * rows_of_block;
  part.end_row = part.row + rows_of_block;
  if (part.end_row > shape.rows) part.end_row = shape.rows;
  return part;
}
inline Grid matrix_grid(MatrixShape shape, int size, int rows_of_block) {
  return {ceil_div(shape.columns, std::int64_t{size} * kMatrixThreads),
          ceil_div(shape.rows, rows_of_block)};
}

/// Columns of one thread of the kernels that write signs: half a byte.
constexpr int kNibble = 4;

__device__ inline unsigned nonnegative(const float (&x)[kNibble], std::int64_t count) {
  unsigned nibble = 0;
  for (int j = 0; j < kNibble; ++j) nibble |= static_cast<unsigned>(j < count && x[j] >= 0) << j;
  return nibble;
}

/// Every lane calls: an even lane stores its nibble and, as the upper half of the byte, its right
/// neighbour's.
__device__ inline void store_nibble(std::uint8_t* row_bits, const Part& part, unsigned nibble) {
  const unsigned upper = __shfl_down_sync(kAllLanes, nibble, 1);
  if (part.group % 2 == 0 && part.count > 0) {
    row_bits[part.group / 2] = static_cast<std::uint8_t>(nibble | upper << kNibble);
  }
}

/// Whether rows of a [rows, columns] matrix at `data` can be moved in packs of `size`.
template <class T>
inline bool whole_packs(const T* data, std::int64_t columns, int size) {
  return columns % size == 0 && aligned_to(data, sizeof(T) * static_cast<std::size_t>(size));
}

}  // namespace
}  // namespace fbi::kernels::cuda
