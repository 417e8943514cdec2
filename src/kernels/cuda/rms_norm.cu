#include <algorithm>
#include <cmath>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

/// Each direction has two kernels. Rows of up to 8,192 values that can be moved in packs are kept
/// in registers between the sum over the row and what needs it; others are read again.
namespace fbi::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSize = 4;   // columns that a thread moves at once
constexpr int kPacks = 4;  // of a kept row, in each thread
constexpr int kMostThreads = 512;
constexpr int kTotalColumns = 32, kTotalSlices = 16;

/// Tokens of one block of the backward. Few, so that there are blocks for all multiprocessors; but
/// a block's part of the weight's gradient is written and read once more.
std::int64_t tokens_of_block(std::int64_t tokens) {
  constexpr std::int64_t kBlocks = 1024, kLeast = 2, kMost = 8;
  return std::clamp(ceil_div(tokens, kBlocks), kLeast, kMost);
}

/// Calls body(column, columns left) for the thread's packs of a row.
template <class Body>
__device__ inline void for_columns(std::int64_t width, const Body& body) {
  for (std::int64_t i = std::int64_t{threadIdx.x} * kSize; i < width; i += kThreads * kSize)
    body(i, width - i);
}
/// Calls body(index of the pack, column) for those of a kept row.
template <class Body>
__device__ inline void for_packs(std::int64_t width, const Body& body) {
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const unsigned i = (k * blockDim.x + threadIdx.x) * kSize;
    if (i < width) body(k, i);
  }
}
using Kept = float[kPacks][kSize];

template <class X, class Y>
struct Forward {
  const X* x;
  const float* weight;
  std::int64_t width;
  bool whole;  ///< rows can be moved in packs
  float eps;
  Y* out;
  float* inverse_rms;
};

/// 1 / sqrt(mean(x²) + eps) from each thread's part of the squares.
template <class X, class Y>
__device__ inline float inverse_rms(const Forward<X, Y>& args, float squares) {
  const double mean = over_block(double{squares}, Sum()) / static_cast<double>(args.width);
  const float inverse = 1 / sqrtf(static_cast<float>(mean) + args.eps);
  if (threadIdx.x == 0) args.inverse_rms[blockIdx.x] = inverse;
  return inverse;
}

template <class X, class Y>
__global__ void __launch_bounds__(kThreads) forward_kernel(Forward<X, Y> args) {
  const X* x = args.x + blockIdx.x * args.width;
  Y* out = args.out + blockIdx.x * args.width;
  float squares = 0;
  for_columns(args.width, [&](std::int64_t i, std::int64_t n) {
    float value[kSize];
    load(value, x + i, n, args.whole);
    for (int j = 0; j < kSize; ++j) squares = fmaf(value[j], value[j], squares);
  });
  const float inverse = inverse_rms(args, squares);
  for_columns(args.width, [&](std::int64_t i, std::int64_t n) {
    float value[kSize], w[kSize];
    load(value, x + i, n, args.whole);
    load(w, args.weight + i, n, args.whole);
    for (int j = 0; j < kSize; ++j) value[j] = value[j] * inverse * w[j];
    store(out + i, value, n, args.whole);
  });
}

template <class X, class Y>
__global__ void __launch_bounds__(kMostThreads) kept_forward_kernel(Forward<X, Y> args) {
  const X* x = args.x + blockIdx.x * args.width;
  Y* out = args.out + blockIdx.x * args.width;
  Kept value = {}, w;
  for_packs(args.width, [&](int k, unsigned i) {
    load_floats(value[k], x + i);
    load_floats(w[k], args.weight + i);
  });
  float squares = 0;
  for (const auto& pack : value) {
    for (const float v : pack) squares = fmaf(v, v, squares);
  }
  const float inverse = inverse_rms(args, squares);
  for_packs(args.width, [&](int k, unsigned i) {
    for (int j = 0; j < kSize; ++j) value[k][j] = value[k][j] * inverse * w[k][j];
    store_floats(out + i, value[k]);
  });
}

template <class X, class Y>
struct Backward {
  const X* x;
  const float* weight;
  const float* inverse_rms;
  const Y* dout;
  std::int64_t tokens, width;
  std::int64_t tokens_of_block;
  bool whole;
  X* dx;
  float* partial;  ///< [blocks][width], or null

  __device__ std::int64_t first() const { return blockIdx.x * tokens_of_block; }
  __device__ std::int64_t end() const {
    return first() + tokens_of_block < tokens ? first() + tokens_of_block : tokens;
  }
  /// From each thread's part of a row's g·n.
  __device__ float mean(float product) const {
    return static_cast<float>(over_block(double{product}, Sum()) / static_cast<double>(width));
  }
};

/// dx of one token; adds dout·n to the thread's own columns of `sums`.
template <class X, class Y>
__device__ inline void backward_of_token(const Backward<X, Y>& args, std::int64_t token,
                                         float* sums) {
  const X* x = args.x + token * args.width;
  const Y* dout = args.dout + token * args.width;
  const float inverse = args.inverse_rms[token];
  const auto load_row = [&](std::int64_t i, std::int64_t n, float(&normalised)[kSize],
                            float(&dy)[kSize], float(&g)[kSize]) {
    load(normalised, x + i, n, args.whole);
    load(dy, dout + i, n, args.whole);
    load(g, args.weight + i, n, args.whole);
    for (int j = 0; j < kSize; ++j) {
      normalised[j] *= inverse;
      g[j] *= dy[j];
    }
  };
  float product = 0;
  for_columns(args.width, [&](std::int64_t i, std::int64_t n) {
    float normalised[kSize], dy[kSize], g[kSize];
    load_row(i, n, normalised, dy, g);
    for (int j = 0; j < kSize; ++j) product = fmaf(g[j], normalised[j], product);
  });
  const float mean = args.mean(product);
  for_columns(args.width, [&](std::int64_t i, std::int64_t n) {
    float normalised[kSize], dy[kSize], g[kSize];
    load_row(i, n, normalised, dy, g);
    for (int j = 0; j < kSize; ++j) {
      if (sums && j < n) sums[i + j] = fmaf(dy[j], normalised[j], sums[i + j]);
      g[j] = (g[j] - normalised[j] * mean) * inverse;
    }
    store(args.dx + token * args.width + i, g, n, args.whole);
  });
}

template <class X, class Y>
__global__ void __launch_bounds__(kThreads) backward_kernel(Backward<X, Y> args) {
  // Every thread reads and writes its own columns of the sums only: no barrier is needed.
  float* sums = args.partial ? args.partial + blockIdx.x * args.width : nullptr;
  for_columns(args.width, [&](std::int64_t i, std::int64_t n) {
    for (int j = 0; sums && j < kSize && j < n; ++j) sums[i + j] = 0;
  });
  for (std::int64_t token = args.first(); token < args.end(); ++token) {
    backward_of_token(args, token, sums);
  }
}

/// The same with the row, and the sums, in registers.
template <class X, class Y>
__device__ inline void kept_backward_of_token(const Backward<X, Y>& args, std::int64_t token,
                                              Kept& sums) {
  const std::int64_t row = token * args.width;
  const float inverse = args.inverse_rms[token];
  Kept normalised = {}, g = {};
  for_packs(args.width, [&](int k, unsigned i) {
    load_floats(normalised[k], args.x + row + i);
    load_floats(g[k], args.dout + row + i);
  });
  float product = 0;
  for_packs(args.width, [&](int k, unsigned i) {
    float w[kSize];
    load_floats(w, args.weight + i);
    for (int j = 0; j < kSize; ++j) {
      normalised[k][j] *= inverse;
      sums[k][j] = fmaf(g[k][j], normalised[k][j], sums[k][j]);
      g[k][j] *= w[j];
      product = fmaf(g[k][j], normalised[k][j], product);
    }
  });
  const float mean = args.mean(product);
  for_packs(args.width, [&](int k, unsigned i) {
    for (int j = 0; j < kSize; ++j) g[k][j] = (g[k][j] - normalised[k][j] * mean) * inverse;
    store_floats(args.dx + row + i, g[k]);
  });
}

template <class X, class Y>
__global__ void __launch_bounds__(kMostThreads) kept_backward_kernel(Backward<X, Y> args) {
  Kept sums = {};
  for (std::int64_t token = args.first(); token < args.end(); ++token) {
    kept_backward_of_token(args, token, sums);
  }
  if (!args.partial) return;
  for_packs(args.width, [&](int k, unsigned i) {
    store_floats(args.partial + blockIdx.x * args.width + i, sums[k]);
  });
}

/// dweight += Σ over blocks of partial [blocks][width], cut into slices that are added in order.
__global__ void __launch_bounds__(kTotalColumns* kTotalSlices)
    total_kernel(const float* partial, std::int64_t blocks, std::int64_t width, float* dweight) {
  __shared__ double slices[kTotalSlices][kTotalColumns];
  const unsigned column = threadIdx.x % kTotalColumns, slice = threadIdx.x / kTotalColumns;
  const std::int64_t i = std::int64_t{blockIdx.x} * kTotalColumns + column;
  double sum = 0;
  if (i < width) {
#pragma unroll 8
    for (std::int64_t block = slice; block < blocks; block += kTotalSlices)
      sum += partial[block * width + i];
  }
  slices[slice][column] = sum;
  __syncthreads();
  if (slice != 0 || i >= width) return;
  for (int k = 1; k < kTotalSlices; ++k) sum += slices[k][column];
  dweight[i] += static_cast<float>(sum);
}

template <class T>
bool whole_packs(const void* data, std::int64_t width) {
  return width % kSize == 0 && aligned_to(data, sizeof(T) * kSize);
}

/// Whether a row fits into a block's registers, and by how many threads.
bool keeps(bool whole, std::int64_t width) {
  return whole && width <= kSize * kPacks * kMostThreads;
}
int threads_to_keep(std::int64_t width) {
  return static_cast<int>(ceil_div(width, kSize * kPacks * kWarp)) * kWarp;
}

}  // namespace

void rms_norm(const RmsNormArgs& args, double eps, void* out, Element out_type, float* inverse_rms,
              Stream stream) {
  with_type(args.x_type, [&](auto in) {
    with_type(out_type, [&](auto result) {
      using X = decltype(in);
      using Y = decltype(result);
      const bool whole = whole_packs<X>(args.x, args.width) &&
                         whole_packs<float>(args.weight, args.width) &&
                         whole_packs<Y>(out, args.width);
      const bool kept = keeps(whole, args.width);
      const Forward<X, Y> forward = {
          static_cast<const X*>(args.x), args.weight,          args.width, whole,
          static_cast<float>(eps),       static_cast<Y*>(out), inverse_rms};
      launch("rms_norm", kept ? kept_forward_kernel<X, Y> : forward_kernel<X, Y>, Grid{args.tokens},
             kept ? threads_to_keep(args.width) : kThreads, stream, forward);
    });
  });
}

std::int64_t rms_norm_backward_workspace(std::int64_t tokens, std::int64_t width) {
  return ceil_div(tokens, tokens_of_block(tokens)) * width;
}

void rms_norm_backward(const RmsNormArgs& args, const float* inverse_rms, const void* dout,
                       Element dout_type, void* dx, float* dweight, float* workspace,
                       Stream stream) {
  const std::int64_t blocks = ceil_div(args.tokens, tokens_of_block(args.tokens));
  with_type(args.x_type, [&](auto in) {
    with_type(dout_type, [&](auto result) {
      using X = decltype(in);
      using Y = decltype(result);
      const bool whole = whole_packs<X>(args.x, args.width) &&
                         whole_packs<float>(args.weight, args.width) &&
                         whole_packs<Y>(dout, args.width) && whole_packs<X>(dx, args.width) &&
                         whole_packs<float>(workspace, args.width);
      const bool kept = keeps(whole, args.width);
      const Backward<X, Y> backward = {
          static_cast<const X*>(args.x), args.weight, inverse_rms,
          static_cast<const Y*>(dout),   args.tokens, args.width,
          tokens_of_block(args.tokens),  whole,       static_cast<X*>(dx),
          dweight ? workspace : nullptr};
      launch("rms_norm_backward", kept ? kept_backward_kernel<X, Y> : backward_kernel<X, Y>,
             Grid{blocks}, kept ? threads_to_keep(args.width) : kThreads, stream, backward);
    });
  });
  if (!dweight) return;
  launch("rms_norm_backward", total_kernel, Grid{ceil_div(args.width, kTotalColumns)},
         kTotalColumns * kTotalSlices, stream, workspace, blocks, args.width, dweight);
}

}  // namespace fbi::kernels::cuda
