#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

/// What the kernels share. Unnamed namespace: every .cu file has its own copy.
namespace fbi::kernels::cuda {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ inline float to_float(__half x) {
  return __half2float(x);
}

template <class T>
__device__ inline T rounded(float x);
template <>
__device__ inline float rounded<float>(float x) {
  return x;
}
template <>
__device__ inline __nv_bfloat16 rounded<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ inline __half rounded<__half>(float x) {
  return __float2half_rn(x);
}

/// Neighbouring elements, moved by one instruction.
template <class T, int size>
struct alignas(sizeof(T) * size) Pack {
  T x[size];
};
/// Elements of 16 bytes.
template <class T>
constexpr int kPackSize = static_cast<int>(16 / sizeof(T));

/// x[j] = source[j] for j < n, the others `fill`. `whole`: source is aligned to the pack and n is
/// size or at most 0.
template <int size, class T>
__device__ inline void load(float (&x)[size], const T* source, std::int64_t n, bool whole,
                            float fill = 0) {
  if (whole && n >= size) {
    const Pack<T, size> pack = *reinterpret_cast<const Pack<T, size>*>(source);
    for (int j = 0; j < size; ++j) x[j] = to_float(pack.x[j]);
  } else {
    for (int j = 0; j < size; ++j) x[j] = j < n ? to_float(source[j]) : fill;
  }
}
template <int size, class T>
__device__ inline void store(T* target, const float (&x)[size], std::int64_t n, bool whole) {
  if (whole && n >= size) {
    Pack<T, size> pack;
    for (int j = 0; j < size; ++j) pack.x[j] = rounded<T>(x[j]);
    *reinterpret_cast<Pack<T, size>*>(target) = pack;
  } else {
    for (int j = 0; j < size; ++j) {
      if (j < n) target[j] = rounded<T>(x[j]);
    }
  }
}

struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
/// b where either is NaN.
struct Max {
  __device__ float operator()(float a, float b) const { return a > b ? a : b; }
};

/// All lanes receive the result, formed in one fixed order.
template <class T, class Combine>
__device__ inline T over_warp(T value, Combine combine) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}

/// All threads of the block receive the result, formed in one fixed order; the block is whole warps
/// and every thread calls. Begins with a barrier, after which what was shared before may be
/// overwritten.
template <class T, class Combine>
__device__ inline T over_block(T value, Combine combine) {
  __shared__ T partial[kWarp];
  value = over_warp(value, combine);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = partial[0];
  for (unsigned warp = 1; warp < blockDim.x / kWarp; ++warp) value = combine(value, partial[warp]);
  return value;
}

}  // namespace
}  // namespace fbi::kernels::cuda
