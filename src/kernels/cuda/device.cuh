#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

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
__device__ inline float to_float(std::int8_t x) {
  return x;
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

/// Words that one instruction moves, by size. Structures of elements would be moved one by one.
template <int bytes>
struct WordOf;
template <>
struct WordOf<16> {
  using Word = uint4;
};
template <>
struct WordOf<8> {
  using Word = uint2;
};
template <>
struct WordOf<4> {
  using Word = unsigned;
};
template <class T, int size>
using Pack = typename WordOf<static_cast<int>(sizeof(T)) * size>::Word;
/// Elements of 16 bytes.
template <class T>
constexpr int kPackSize = static_cast<int>(16 / sizeof(T));

/// Pointers are aligned to the pack.
template <int size, class T>
__device__ inline void load_pack(T (&x)[size], const T* source) {
  const auto word = *reinterpret_cast<const Pack<T, size>*>(source);
  memcpy(x, &word, sizeof word);
}
template <int size, class T>
__device__ inline void store_pack(T* target, const T (&x)[size]) {
  Pack<T, size> word;
  memcpy(&word, x, sizeof word);
  __stwb(reinterpret_cast<Pack<T, size>*>(target), word);  // an assignment may be split again
}

/// A pack from and to where it is aligned.
template <int size, class T>
__device__ inline void load_floats(float (&x)[size], const T* source) {
  T pack[size];
  load_pack(pack, source);
  for (int j = 0; j < size; ++j) x[j] = to_float(pack[j]);
}
template <int size, class T>
__device__ inline void store_floats(T* target, const float (&x)[size]) {
  T pack[size];
  for (int j = 0; j < size; ++j) pack[j] = rounded<T>(x[j]);
  store_pack(target, pack);
}

/// x[j] = source[j] for j < n, the others 0. `whole`: source is aligned to the pack.
template <int size, class T>
__device__ inline void load(float (&x)[size], const T* source, std::int64_t n, bool whole) {
  if (whole && n >= size) {
    load_floats(x, source);
  } else {
    for (int j = 0; j < size; ++j) x[j] = j < n ? to_float(source[j]) : 0.0f;
  }
}
template <int size, class T>
__device__ inline void store(T* target, const float (&x)[size], std::int64_t n, bool whole) {
  if (whole && n >= size) {
    store_floats(target, x);
  } else {
    for (int j = 0; j < size; ++j) {
      if (j < n) target[j] = rounded<T>(x[j]);
    }
  }
}

/// The same for kernels that exist twice: `whole` stands for n >= size, too. Nothing is checked
/// then, so that a loop's loads can all be under way before one of them is used.
template <bool whole, int size, class T>
__device__ inline void load(float (&x)[size], const T* source, std::int64_t n) {
  if (whole) {
    load_floats(x, source);
  } else {
    load(x, source, n, false);
  }
}
template <bool whole, int size, class T>
__device__ inline void store(T* target, const float (&x)[size], std::int64_t n) {
  if (whole) {
    store_floats(target, x);
  } else {
    store(target, x, n, false);
  }
}

/// Eight elements that lie aligned to 16 bytes, or to 8 where each is one byte.
constexpr int kEight = 8;
template <class T>
__device__ inline void load_eight(float (&x)[kEight], const T* source) {
  T pack[kEight];
  load_pack(pack, source);
  for (int j = 0; j < kEight; ++j) x[j] = to_float(pack[j]);
}
__device__ inline void load_eight(float (&x)[kEight], const float* source) {
  float low[4], high[4];
  load_pack(low, source);
  load_pack(high, source + 4);
  for (int j = 0; j < 4; ++j) {
    x[j] = low[j];
    x[4 + j] = high[j];
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
