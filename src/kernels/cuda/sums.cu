#include "kernels/blocks.h"
#include "kernels/cpu_kernels.h"
#include "kernels/cuda/matrix.cuh"

/// Sums in double. Their order is given by the shape: by blocks of kRowBlock rows for columns and
/// by kLanes lanes for rows, as the processor's kernels have it, and by trees of fixed form
/// elsewhere.
namespace fbi::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kFinishThreads = 512;  // where one block is enough
constexpr int kRowsOfBlock = kMatrixThreads / kLanes;
/// Elements of one block of sum_of_squares.
constexpr std::int64_t kSumBlock = 1 << 14;

struct Gradient {
  const float* raw_grad;
  const std::uint8_t* bits;
  MatrixShape shape;
};

/// In the order of the three arrays: Σ G where s = +1, Σ G, Σ G².
struct GradientSums {
  double positive = 0, sum = 0, squares = 0;
  __device__ void add(double g, bool plus) {
    if (plus) positive += g;
    sum += g;
    // A square of an fp32 value is exact in double: one rounding either way.
    squares = fma(g, g, squares);
  }
};

/// partial [row blocks][3][columns]
__global__ void __launch_bounds__(kMatrixThreads)
    column_partials(Gradient matrix, double* partial) {
  const Part part = part_of<1>(matrix.shape, kRowBlock);
  if (part.count <= 0) return;
  const std::int64_t columns = matrix.shape.columns, i = part.column;
  GradientSums sums;
#pragma unroll 8
  for (std::int64_t o = part.row; o < part.end_row; ++o) {
    const unsigned byte = matrix.bits[o * row_bytes(columns) + i / 8];
    sums.add(matrix.raw_grad[o * columns + i], byte >> (i % 8) & 1);
  }
  double* out = partial + blockIdx.y * 3 * columns + i;
  out[0] = sums.positive;
  out[columns] = sums.sum;
  out[2 * columns] = sums.squares;
}

/// Adds the blocks to the first one, in order; 0 where there is none. partial [blocks][width]
__global__ void __launch_bounds__(kThreads)
    add_blocks(double* partial, std::int64_t blocks, std::int64_t width) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= width) return;
  double sum = blocks > 0 ? partial[i] : 0;
#pragma unroll 8
  for (std::int64_t block = 1; block < blocks; ++block) sum += partial[block * width + i];
  partial[i] = sum;
}

/// The lanes of a row in ascending order; every lane of the warp calls, the first of a row receives
/// the sum.
__device__ inline double add_lanes(double value) {
  double sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += __shfl_sync(kAllLanes, value, lane, kLanes);
  return sum;
}

/// sums [3][rows]
__global__ void __launch_bounds__(kMatrixThreads) row_sums(Gradient matrix, double* out) {
  const std::int64_t rows = matrix.shape.rows, columns = matrix.shape.columns;
  const std::int64_t o = std::int64_t{blockIdx.x} * kRowsOfBlock + threadIdx.x / kLanes;
  GradientSums sums;
  if (o < rows) {
    const float* raw_grad = matrix.raw_grad + o * columns;
    const std::uint8_t* bits = matrix.bits + o * row_bytes(columns);
#pragma unroll 8
    for (std::int64_t i = threadIdx.x % kLanes; i < columns; i += kLanes) {
      sums.add(raw_grad[i], bits[i / 8] >> (i % 8) & 1);
    }
  }
  const double positive = add_lanes(sums.positive), sum = add_lanes(sums.sum);
  const double squares = add_lanes(sums.squares);
  if (o < rows && threadIdx.x % kLanes == 0) {
    out[o] = positive;
    out[rows + o] = sum;
    out[2 * rows + o] = squares;
  }
}

/// Σ x by one block.
__device__ inline double block_total(const double* x, std::int64_t count) {
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += kFinishThreads) sum += x[i];
  return over_block(sum, Sum());
}

/// Stores the gradients of one scale and returns its part of Σ (alpha·G)².
__device__ inline double finish(const GradientSums& sums, float alpha, float* dalpha,
                                float* dbeta) {
  *dalpha = static_cast<float>(2 * sums.positive - sums.sum);
  *dbeta = static_cast<float>(sums.sum);
  return double{alpha} * alpha * sums.squares;
}

/// sums [3][count], one of each per scale; the block's part of the squares behind them.
__global__ void __launch_bounds__(kThreads)
    finish_scales(double* sums, std::int64_t count, const float* alpha, float* dalpha,
                  float* dbeta) {
  const std::int64_t k = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  double term = 0;
  if (k < count) {
    GradientSums scale;
    scale.positive = sums[k];
    scale.sum = sums[count + k];
    scale.squares = sums[2 * count + k];
    term = finish(scale, alpha[k], &dalpha[k], &dbeta[k]);
  }
  term = over_block(term, Sum());
  if (threadIdx.x == 0) sums[3 * count + blockIdx.x] = term;
}

/// All of it where all rows share one scale.
__global__ void __launch_bounds__(kFinishThreads)
    finish_single(const double* sums, std::int64_t rows, const float* alpha, float* dalpha,
                  float* dbeta, double* squares) {
  GradientSums all;
  all.positive = block_total(sums, rows);
  all.sum = block_total(sums + rows, rows);
  all.squares = block_total(sums + 2 * rows, rows);
  if (threadIdx.x == 0) *squares = finish(all, *alpha, dalpha, dbeta);
}

/// One thread's part of Σ x² over a block's elements, of which `count` are there.
template <bool whole>
__device__ inline double squares_of(const float* x, std::int64_t count) {
  constexpr int kSize = kPackSize<float>;
  double sum = 0;
#pragma unroll 4
  for (std::int64_t i = threadIdx.x * kSize; i < kSumBlock; i += kThreads * kSize) {
    float value[kSize];
    load<whole>(value, x + i, count - i);
    for (int j = 0; j < kSize; ++j) sum = fma(double{value[j]}, double{value[j]}, sum);
  }
  return sum;
}

__global__ void __launch_bounds__(kThreads)
    squares_kernel(const float* x, std::int64_t count, bool aligned, double* partial) {
  const std::int64_t begin = blockIdx.x * kSumBlock, left = count - begin;
  double sum = aligned && left >= kSumBlock ? squares_of<true>(x + begin, left)
                                            : squares_of<false>(x + begin, left);
  sum = over_block(sum, Sum());
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kFinishThreads)
    total_kernel(const double* x, std::int64_t count, double* out) {
  const double sum = block_total(x, count);
  if (threadIdx.x == 0) *out = sum;
}

}  // namespace

std::int64_t scale_gradients_workspace(ScaleStrides strides, MatrixShape shape) {
  const std::int64_t blocks = std::max<std::int64_t>(1, ceil_div(shape.rows, kRowBlock));
  const std::int64_t count = strides.column ? shape.columns : shape.rows;
  // The parts of the squares take the place of the other blocks' sums, or follow.
  return std::max(3 * count * (strides.column ? blocks : 1), 3 * count + ceil_div(count, kThreads));
}

void scale_gradients(const float* raw_grad, const std::uint8_t* bits, const float* alpha,
                     ScaleStrides strides, MatrixShape shape, float* dalpha, float* dbeta,
                     double* squares, double* workspace, Stream stream) {
  check_strides(strides);
  const Gradient matrix = {raw_grad, bits, shape};
  if (strides.column) {
    const std::int64_t blocks = ceil_div(shape.rows, kRowBlock), width = 3 * shape.columns;
    launch("scale_gradients", column_partials, matrix_grid(shape, 1, kRowBlock), kMatrixThreads,
           stream, matrix, workspace);
    launch("scale_gradients", add_blocks, Grid{ceil_div(width, kThreads)}, kThreads, stream,
           workspace, blocks, width);
  } else {
    launch("scale_gradients", row_sums, Grid{ceil_div(shape.rows, kRowsOfBlock)}, kMatrixThreads,
           stream, matrix, workspace);
  }
  if (!strides.row && !strides.column) {
    launch("scale_gradients", finish_single, Grid{}, kFinishThreads, stream, workspace, shape.rows,
           alpha, dalpha, dbeta, squares);
    return;
  }
  const std::int64_t count = strides.column ? shape.columns : shape.rows;
  const std::int64_t blocks = ceil_div(count, kThreads);
  launch("scale_gradients", finish_scales, Grid{blocks}, kThreads, stream, workspace, count, alpha,
         dalpha, dbeta);
  launch("scale_gradients", total_kernel, Grid{}, kFinishThreads, stream, workspace + 3 * count,
         blocks, squares);
}

std::int64_t sum_of_squares_workspace(std::int64_t count) {
  return ceil_div(count, kSumBlock);
}

void sum_of_squares(const float* x, std::int64_t count, double* out, double* workspace,
                    Stream stream) {
  const std::int64_t blocks = ceil_div(count, kSumBlock);
  launch("sum_of_squares", squares_kernel, Grid{blocks}, kThreads, stream, x, count,
         aligned_to(x, 16), workspace);
  launch("sum_of_squares", total_kernel, Grid{}, kFinishThreads, stream, workspace, blocks, out);
}

}  // namespace fbi::kernels::cuda
