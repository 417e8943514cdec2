#include <cuda_fp8.h>

#include <cfloat>

#include "fbi/core/error.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

namespace fbi::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr float kLargest = 448;  // of e4m3

/// Of a vector with a number per column: 16 bytes at a time.
template <int size>
__device__ inline void load_columns(float (&value)[size], const float* vector, std::int64_t i,
                                    std::int64_t width, bool whole) {
  for (int j = 0; j < size; j += kPackSize<float>) {
    float part[kPackSize<float>];
    load(part, vector + i + j, width - i - j, whole);
    for (int k = 0; k < kPackSize<float>; ++k) value[j + k] = part[k];
  }
}

/// The part of Σ beta·x from column i on.
template <int size, class T>
__device__ inline float shifted(const T* x, const float* beta, std::int64_t i, std::int64_t width,
                                bool whole) {
  float value[size], shift[size], sum = 0;
  load(value, x + i, width - i, whole);
  load_columns(shift, beta, i, width, whole);
  for (int j = 0; j < size; ++j) sum += shift[j] * value[j];
  return sum;
}

/// x from column i on, times alpha where it is given. `whole` holds for all three.
template <int size, class T>
__device__ inline void load_scaled(float (&value)[size], const T* x, const float* alpha,
                                   std::int64_t i, std::int64_t width, bool whole) {
  load(value, x + i, width - i, whole);
  if (alpha == nullptr) return;
  float factor[size];
  load_columns(factor, alpha, i, width, whole);
  for (int j = 0; j < size; ++j) value[j] *= factor[j];
}

/// One block per row, which is read twice, the second time mostly from the L2 cache.
template <class T>
__global__ void __launch_bounds__(kThreads)
    quantize_kernel(const T* xs, std::int64_t width, bool whole, ColumnScales columns,
                    std::uint8_t* values, float* scales) {
  constexpr int kSize = kPackSize<T>;
  const T* x = xs + blockIdx.x * width;
  const std::int64_t first = std::int64_t{threadIdx.x} * kSize, stride = kThreads * kSize;
  float top = 0, sum = 0;
  for (std::int64_t i = first; i < width; i += stride) {
    float value[kSize];
    load_scaled(value, x, columns.alpha, i, width, whole);
    if (columns.sums) sum += shifted<kSize>(x, columns.beta, i, width, whole);
    for (int j = 0; j < kSize; ++j) top = Max()(fabsf(value[j]), top);
  }
  const float scale = Max()(over_block(top, Max()) / kLargest, FLT_MIN);
  if (threadIdx.x == 0) scales[blockIdx.x] = scale;
  if (columns.sums) {
    sum = over_block(sum, Sum());
    if (threadIdx.x == 0) columns.sums[blockIdx.x] = sum;
  }
  std::uint8_t* out = values + blockIdx.x * width;
  for (std::int64_t i = first; i < width; i += stride) {
    float value[kSize];
    load_scaled(value, x, columns.alpha, i, width, whole);
    std::uint8_t pack[kSize];
    for (int j = 0; j < kSize; ++j)
      pack[j] = __nv_cvt_float_to_fp8(value[j] / scale, __NV_SATFINITE, __NV_E4M3);
    if (whole) {
      store_pack(out + i, pack);
    } else {
      for (int j = 0; j < kSize; ++j) {
        if (i + j < width) out[i + j] = pack[j];
      }
    }
  }
}

}  // namespace

void quantize_rows(const void* x, Element type, std::int64_t rows, std::int64_t width,
                   const ColumnScales& columns, std::uint8_t* values, float* scales,
                   Stream stream) {
  if ((columns.alpha == nullptr) != (columns.sums == nullptr) ||
      (columns.beta == nullptr) != (columns.sums == nullptr))
    throw UsageError("quantize_rows: expected alpha, beta and sums of columns, or none of them");
  with_type(type, [&](auto element) {
    using T = decltype(element);
    const bool whole = width % kPackSize<T> == 0 && aligned_to(x, 16) &&
                       aligned_to(columns.alpha, 16) && aligned_to(columns.beta, 16) &&
                       aligned_to(values, static_cast<std::uintptr_t>(kPackSize<T>));
    launch("quantize_rows", quantize_kernel<T>, Grid{rows}, kThreads, stream,
           static_cast<const T*>(x), width, whole, columns, values, scales);
  });
}

}  // namespace fbi::kernels::cuda
