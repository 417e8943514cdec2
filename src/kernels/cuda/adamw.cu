#include "kernels/adamw_constants.h"
#include "kernels/blocks.h"
#include "kernels/cuda/matrix.cuh"

namespace fbi::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRowsOfBlock = 8;

/// The rounding of every operation is that of ref/adamw.cpp: no contraction (the files are compiled
/// with
/// --fmad=false), division and square root exactly rounded.
__device__ inline void update(float& value, float& moment1, float& moment2, float grad,
                              const AdamWConstants& c) {
  const float g = grad * c.grad_scale;
  moment1 = fmaf(c.one_minus_beta1, g - moment1, moment1);
  moment2 = fmaf(c.one_minus_beta2 * g, g, c.beta2 * moment2);
  const float denominator = sqrtf(moment2) / c.sqrt_bias_correction2 + c.eps;
  value = value * c.decay + c.negative_step_size * moment1 / denominator;
}

struct State {
  float *value, *moment1, *moment2;
};

inline bool whole_packs(const State& state, const float* grad, std::int64_t columns) {
  return columns % kNibble == 0 && aligned_to(state.value, 16) && aligned_to(state.moment1, 16) &&
         aligned_to(state.moment2, 16) && aligned_to(grad, 16);
}

/// Elements [first, first + count) of one thread; value receives the new values.
__device__ inline void update_part(const State& state, std::int64_t first, std::int64_t count,
                                   bool whole, float (&value)[kNibble],
                                   const float (&grad)[kNibble], const AdamWConstants& constants) {
  float moment1[kNibble], moment2[kNibble];
  load(moment1, state.moment1 + first, count, whole);
  load(moment2, state.moment2 + first, count, whole);
  for (int j = 0; j < kNibble; ++j) update(value[j], moment1[j], moment2[j], grad[j], constants);
  store(state.value + first, value, count, whole);
  store(state.moment1 + first, moment1, count, whole);
  store(state.moment2 + first, moment2, count, whole);
}

__global__ void __launch_bounds__(kThreads)
    dense_kernel(State state, const float* grads, std::int64_t count, bool whole,
                 AdamWConstants constants) {
  const std::int64_t first = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kNibble;
  if (first >= count) return;
  float value[kNibble], grad[kNibble];
  load(value, state.value + first, count - first, whole);
  load(grad, grads + first, count - first, whole);
  update_part(state, first, count - first, whole, value, grad, constants);
}

struct Latent {
  State state;
  const float* raw_grad;
  const float* alpha;
  std::int64_t row_stride;  ///< of alpha
  MatrixShape shape;
  std::uint8_t* bits;
};

template <bool per_column, bool whole>
__global__ void __launch_bounds__(kMatrixThreads)
    latent_kernel(Latent latent, AdamWConstants constants, unsigned long long* flips) {
  const Part part = part_of<kNibble>(latent.shape, kRowsOfBlock);
  float alpha[kNibble];
  if (per_column) load(alpha, latent.alpha + part.column, part.count, false);
  int flipped = 0;
  for (std::int64_t o = part.row; o < part.end_row; ++o) {
    const std::int64_t first = o * latent.shape.columns + part.column;
    float value[kNibble], grad[kNibble];
    load(value, latent.state.value + first, part.count, whole);
    load(grad, latent.raw_grad + first, part.count, whole);
    for (int j = 0; j < kNibble; ++j) {
      grad[j] = (per_column ? alpha[j] : latent.alpha[o * latent.row_stride]) * grad[j];
    }
    const unsigned before = nonnegative(value, part.count);
    update_part(latent.state, first, part.count, whole, value, grad, constants);
    const unsigned after = nonnegative(value, part.count);
    store_nibble(latent.bits + o * row_bytes(latent.shape.columns), part, after);
    flipped += __popc(before ^ after);
  }
  flipped = over_warp(flipped, Sum());
  if (threadIdx.x % kWarp == 0 && flipped != 0) {
    // Integers: any order gives the same sum.
    atomicAdd(flips, static_cast<unsigned long long>(flipped));
  }
}

}  // namespace

void adamw(float* value, float* moment1, float* moment2, const float* grad, std::int64_t count,
           const AdamWStep& step, Stream stream) {
  const State state = {value, moment1, moment2};
  launch("adamw", dense_kernel, Grid{ceil_div(count, std::int64_t{kThreads} * kNibble)}, kThreads,
         stream, state, grad, count, whole_packs(state, grad, kNibble), constants_of(step));
}

void adamw_latent(float* latent, float* moment1, float* moment2, const float* raw_grad,
                  const float* alpha, ScaleStrides strides, MatrixShape shape, std::uint8_t* bits,
                  const AdamWStep& step, std::int64_t* flips, Stream stream) {
  check_strides(strides);
  const Latent matrix = {{latent, moment1, moment2}, raw_grad, alpha, strides.row, shape, bits};
  const bool whole = whole_packs(matrix.state, raw_grad, shape.columns);
  const auto kernel = strides.column
                          ? (whole ? latent_kernel<true, true> : latent_kernel<true, false>)
                          : (whole ? latent_kernel<false, true> : latent_kernel<false, false>);
  launch("adamw_latent", kernel, matrix_grid(shape, kNibble, kRowsOfBlock), kMatrixThreads, stream,
         matrix, constants_of(step), reinterpret_cast<unsigned long long*>(flips));
}

}  // namespace fbi::kernels::cuda
