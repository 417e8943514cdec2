#include "kernels/blocks.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

/// A block computes 32 rows, one per lane; its warps share the columns in chunks of 128. For a
/// chunk a warp builds, in shared memory, one table per 4 columns with the sums of ±alpha·x for all
/// 16 sign combinations, 4 columns a lane; then each lane looks its row's 32 nibbles up. All lanes
/// look into one table at a time, whose 16 words lie in different banks: no conflicts.
///
/// Bound. 4,096 weights cost a warp 32 look-ups of 4 instructions (shift, mask, load, add) and some
/// 30 instructions for the tables: 26 weights per issued instruction, about 100 per clock and
/// multiprocessor. On 132 of them at 1.7 GHz the 6.5 billion weights of the 7B model take 0.29 ms,
/// against 0.17 ms for reading their 0.81 GB at 4.8 TB/s. A select and an addition per weight would
/// take 0.7 to 0.9 ms.
namespace fbi::kernels::cuda {
namespace {

constexpr int kMaxWarps = 16;
constexpr int kChunk = 128;  // columns
constexpr int kGroup = 4;    // columns of a table
constexpr int kGroups = kChunk / kGroup;
constexpr int kEntries = 1 << kGroup;
constexpr int kTableStride =
    kEntries + 4;  // so that the lanes' tables begin in different banks when they are written
constexpr int kThreads = 256;  // of repacking

__global__ void __launch_bounds__(kThreads)
    repack_kernel(const std::uint8_t* bits, MatrixShape shape, std::int64_t chunks,
                  std::uint8_t* words) {
  constexpr int kBytes = kChunk / 8;
  const std::int64_t place = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;  // of a byte
  const std::int64_t lane = place / kBytes % kWarp, chunk = place / (kBytes * kWarp) % chunks;
  const std::int64_t row = place / (kBytes * kWarp * chunks) * kWarp + lane,
                     byte = chunk * kBytes + place % kBytes;
  if (row >= ceil_div(shape.rows, kWarp) * kWarp) return;
  const bool inside = row < shape.rows && byte < row_bytes(shape.columns);
  words[place] = inside ? bits[row * row_bytes(shape.columns) + byte] : 0;
}

struct Product {
  const uint4* words;
  const float* alpha;
  const float* beta;
  std::int64_t row_stride;
  MatrixShape shape;
  std::int64_t chunks;
  const float* x;
  float* y;
  bool whole;  ///< x, alpha and beta can be moved in packs
};

/// The 16 sums of ±a, the sign of a[j] by bit j of the index.
__device__ inline void write_table(const float (&a)[kGroup], float* table) {
  const float low[4] = {-a[0] - a[1], a[0] - a[1], a[1] - a[0], a[0] + a[1]};
  const float high[4] = {-a[2] - a[3], a[2] - a[3], a[3] - a[2], a[2] + a[3]};
  for (int k = 0; k < 4; ++k) {
    const float4 entries = {low[0] + high[k], low[1] + high[k], low[2] + high[k], low[3] + high[k]};
    *reinterpret_cast<float4*>(table + 4 * k) = entries;
  }
}

/// Σ of the entries that the nibbles of 32 columns choose.
__device__ inline float look_up(unsigned word, const float* tables) {
  float sum = 0;
#pragma unroll
  for (int group = 0; group < 32 / kGroup; ++group) {
    sum += tables[group * kTableStride + (word >> (kGroup * group) & (kEntries - 1))];
  }
  return sum;
}

/// The lane's inputs of a chunk, times alpha where that belongs to columns; adds to what beta
/// multiplies.
template <bool per_column>
__device__ inline void load_inputs(const Product& w, const float* x, std::int64_t column,
                                   float (&a)[kGroup], float& shift) {
  const std::int64_t n = w.shape.columns - column;
  load(a, x + column, n, w.whole);
  float alpha[kGroup], beta[kGroup];
  if (per_column) {
    load(alpha, w.alpha + column, n, w.whole);
    load(beta, w.beta + column, n, w.whole);
  }
  for (int j = 0; j < kGroup; ++j) {
    shift = per_column ? fmaf(beta[j], a[j], shift) : shift + a[j];
    if (per_column) a[j] *= alpha[j];
  }
}

template <bool per_column>
__global__ void __launch_bounds__(kMaxWarps* kWarp) multiply_kernel(Product w) {
  alignas(16) __shared__ float tables[kMaxWarps][kGroups * kTableStride];
  __shared__ float row_sums[kMaxWarps][kWarp];
  __shared__ float shifts[kMaxWarps];
  const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
  const float* x = w.x + blockIdx.y * w.shape.columns;
  float sum = 0, shift = 0;
  for (std::int64_t chunk = warp; chunk < w.chunks; chunk += warps) {
    const uint4 signs = w.words[(blockIdx.x * w.chunks + chunk) * kWarp + lane];
    float a[kGroup];
    load_inputs<per_column>(w, x, chunk * kChunk + lane * kGroup, a, shift);
    __syncwarp();  // nobody reads the tables of the chunk before any more
    write_table(a, tables[warp] + lane * kTableStride);
    __syncwarp();
    constexpr int kWordTables = 32 / kGroup * kTableStride;
    sum += look_up(signs.x, tables[warp]) + look_up(signs.y, tables[warp] + kWordTables);
    sum += look_up(signs.z, tables[warp] + 2 * kWordTables) +
           look_up(signs.w, tables[warp] + 3 * kWordTables);
  }
  row_sums[warp][lane] = sum;
  shift = over_warp(shift, Sum());
  if (lane == 0) shifts[warp] = shift;
  __syncthreads();
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarp + lane;
  if (warp != 0 || row >= w.shape.rows) return;
  for (unsigned k = 1; k < warps; ++k) {
    sum += row_sums[k][lane];
    shift += shifts[k];
  }
  const std::int64_t scale = row * w.row_stride;
  w.y[blockIdx.y * w.shape.rows + row] =
      per_column ? sum + shift : fmaf(w.alpha[scale], sum, w.beta[scale] * shift);
}

}  // namespace

std::int64_t repacked_bytes(MatrixShape shape) {
  return ceil_div(shape.rows, kWarp) * ceil_div(shape.columns, kChunk) * kWarp * kChunk / 8;
}

void repack_signs(const std::uint8_t* bits, MatrixShape shape, void* words, Stream stream) {
  launch("repack_signs", repack_kernel, Grid{ceil_div(repacked_bytes(shape), kThreads)}, kThreads,
         stream, bits, shape, ceil_div(shape.columns, kChunk), static_cast<std::uint8_t*>(words));
}

void multiply(const RepackedMatrix& w, const float* x, std::int64_t tokens, float* y,
              Stream stream) {
  check_strides(w.strides);
  const bool per_column = w.strides.column != 0;
  Product product = {static_cast<const uint4*>(w.words),
                     w.alpha,
                     w.beta,
                     w.strides.row,
                     w.shape,
                     ceil_div(w.shape.columns, kChunk),
                     x,
                     y,
                     w.shape.columns % kGroup == 0 && aligned_to(x, 16)};
  if (per_column)
    product.whole = product.whole && aligned_to(w.alpha, 16) && aligned_to(w.beta, 16);
  const int warps = static_cast<int>(product.chunks < kMaxWarps ? product.chunks : kMaxWarps);
  launch("multiply", per_column ? multiply_kernel<true> : multiply_kernel<false>,
         Grid{ceil_div(w.shape.rows, kWarp), tokens}, warps * kWarp, stream, product);
}

}  // namespace fbi::kernels::cuda
