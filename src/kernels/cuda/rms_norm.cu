#include <cmath>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

namespace fbi::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSize = 4;             // columns that a thread moves at once
constexpr std::int64_t kTokens = 8;  // of one block of the backward
constexpr std::int64_t kShared =
    8192;  // widths up to this sum their weight's gradient in shared memory
constexpr int kTotalColumns = 32, kTotalSlices = 16;

/// Calls body(column, columns left) for the thread's packs of a row.
template <class Body>
__device__ inline void for_columns(std::int64_t width, const Body& body) {
  for (std::int64_t i = std::int64_t{threadIdx.x} * kSize; i < width; i += kThreads * kSize)
    body(i, width - i);
}

template <class X, class Y>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const X* xs, const float* weight, std::int64_t width, bool whole, float eps,
                   Y* outs, float* inverse_rms) {
  const X* x = xs + blockIdx.x * width;
  float squares = 0;
  for_columns(width, [&](std::int64_t i, std::int64_t n) {
    float value[kSize];
    load(value, x + i, n, whole);
    for (int j = 0; j < kSize; ++j) squares = fmaf(value[j], value[j], squares);
  });
  const double mean = over_block(double{squares}, Sum()) / static_cast<double>(width);
  const float inverse = 1 / sqrtf(static_cast<float>(mean) + eps);
  if (threadIdx.x == 0) inverse_rms[blockIdx.x] = inverse;
  Y* out = outs + blockIdx.x * width;
  for_columns(width, [&](std::int64_t i, std::int64_t n) {
    float value[kSize], w[kSize];
    load(value, x + i, n, whole);
    load(w, weight + i, n, whole);
    for (int j = 0; j < kSize; ++j) value[j] = value[j] * inverse * w[j];
    store(out + i, value, n, whole);
  });
}

template <class X, class Y>
struct Backward {
  const X* x;
  const float* weight;
  const float* inverse_rms;
  const Y* dout;
  std::int64_t tokens, width;
  bool whole;
  X* dx;
  float* partial;  ///< [blocks][width], or null
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
  const auto mean =
      static_cast<float>(over_block(double{product}, Sum()) / static_cast<double>(args.width));
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
  // Every thread reads and writes its own columns only: no barrier is needed.
  __shared__ float shared[kShared];
  float* partial = args.partial ? args.partial + blockIdx.x * args.width : nullptr;
  const bool in_shared = args.width <= kShared;
  float* sums = partial && in_shared ? shared : partial;
  if (sums) {
    for_columns(args.width, [&](std::int64_t i, std::int64_t n) {
      for (int j = 0; j < kSize && j < n; ++j) sums[i + j] = 0;
    });
  }
  for (std::int64_t token = blockIdx.x * kTokens;
       token < args.tokens && token < (blockIdx.x + 1) * kTokens; ++token) {
    backward_of_token(args, token, sums);
  }
  if (!partial || !in_shared) return;
  for_columns(args.width, [&](std::int64_t i, std::int64_t n) {
    for (int j = 0; j < kSize && j < n; ++j) partial[i + j] = shared[i + j];
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
      launch("rms_norm", forward_kernel<X, Y>, Grid{args.tokens}, kThreads, stream,
             static_cast<const X*>(args.x), args.weight, args.width, whole, static_cast<float>(eps),
             static_cast<Y*>(out), inverse_rms);
    });
  });
}

std::int64_t rms_norm_backward_workspace(std::int64_t tokens, std::int64_t width) {
  return ceil_div(tokens, kTokens) * width;
}

void rms_norm_backward(const RmsNormArgs& args, const float* inverse_rms, const void* dout,
                       Element dout_type, void* dx, float* dweight, float* workspace,
                       Stream stream) {
  const std::int64_t blocks = ceil_div(args.tokens, kTokens);
  with_type(args.x_type, [&](auto in) {
    with_type(dout_type, [&](auto result) {
      using X = decltype(in);
      using Y = decltype(result);
      const bool whole = whole_packs<X>(args.x, args.width) &&
                         whole_packs<float>(args.weight, args.width) &&
                         whole_packs<Y>(dout, args.width) && whole_packs<X>(dx, args.width);
      const Backward<X, Y> backward = {static_cast<const X*>(args.x),
                                       args.weight,
                                       inverse_rms,
                                       static_cast<const Y*>(dout),
                                       args.tokens,
                                       args.width,
                                       whole,
                                       static_cast<X*>(dx),
                                       dweight ? workspace : nullptr};
      launch("rms_norm_backward", backward_kernel<X, Y>, Grid{blocks}, kThreads, stream, backward);
    });
  });
  if (!dweight) return;
  launch("rms_norm_backward", total_kernel, Grid{ceil_div(args.width, kTotalColumns)},
         kTotalColumns * kTotalSlices, stream, workspace, blocks, args.width, dweight);
}

}  // namespace fbi::kernels::cuda
