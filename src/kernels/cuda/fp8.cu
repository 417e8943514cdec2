#include <cuda_fp8.h>

#include <cfloat>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

namespace fbi::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr float kLargest = 448;  // of e4m3

/// One block per row, which is read twice, the second time mostly from the L2 cache.
template <class T>
__global__ void __launch_bounds__(kThreads)
    quantize_kernel(const T* xs, std::int64_t width, bool whole, std::uint8_t* values,
                    float* scales) {
  constexpr int kSize = kPackSize<T>;
  const T* x = xs + blockIdx.x * width;
  const std::int64_t first = std::int64_t{threadIdx.x} * kSize, stride = kThreads * kSize;
  float top = 0;
  for (std::int64_t i = first; i < width; i += stride) {
    float value[kSize];
    load(value, x + i, width - i, whole);
    for (int j = 0; j < kSize; ++j) top = Max()(fabsf(value[j]), top);
  }
  const float scale = Max()(over_block(top, Max()) / kLargest, FLT_MIN);
  if (threadIdx.x == 0) scales[blockIdx.x] = scale;
  std::uint8_t* out = values + blockIdx.x * width;
  for (std::int64_t i = first; i < width; i += stride) {
    float value[kSize];
    load(value, x + i, width - i, whole);
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
                   std::uint8_t* values, float* scales, Stream stream) {
  with_type(type, [&](auto element) {
    using T = decltype(element);
    const bool whole = width % kPackSize<T> == 0 && aligned_to(x, 16) &&
                       aligned_to(values, static_cast<std::uintptr_t>(kPackSize<T>));
    launch("quantize_rows", quantize_kernel<T>, Grid{rows}, kThreads, stream,
           static_cast<const T*>(x), width, whole, values, scales);
  });
}

}  // namespace fbi::kernels::cuda
