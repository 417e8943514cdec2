#pragma once

#include "fbi/kernels/cuda_decode.h"
#include "kernels/cuda/device.cuh"

/// Both sides of what lies between the launches of a decode step. Unnamed namespace: see
/// device.cuh.
namespace fbi::kernels::cuda {
namespace {

/// Every kernel of a decode step calls this before it reads what an earlier launch wrote, and
/// before it writes anything. Until then it reads only weights and the step's rows and angles,
/// which are there before the step's first launch, embed, begins: that one is not launched early.
/// Afterwards the launch before has ended, and with it all earlier ones, since it waited for its
/// own predecessor; whatever they wrote is there, and nobody reads what this one overwrites. Only
/// then may the next one begin, so never more than two run at once. For this order it is enough
/// that one block waits: those without work end at once.
__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

/// What the readers multiply one element with. A kernel loads it first of all, so that it is there
/// when the element is.
struct ReaderScales {
  float norm = 0;
  float alpha[Readers::kMost] = {}, beta[Readers::kMost] = {};
};
__device__ inline ReaderScales scales_of(const Readers& readers, std::int64_t column, bool inside) {
  ReaderScales scales;
  scales.norm = inside && readers.norm ? readers.norm[column] : 1;
#pragma unroll
  for (int n = 0; n < Readers::kMost; ++n) {
    const bool columns = n < readers.count && inside && readers.reader[n].alpha;
    scales.alpha[n] = columns ? readers.reader[n].alpha[column] : 1;
    scales.beta[n] = columns ? readers.reader[n].beta[column] : 1;
  }
  return scales;
}

/// A whole warp calls: each lane has the element of one column, or none.
__device__ inline void publish(const Readers& readers, const ReaderScales& scales,
                               std::int64_t token, std::int64_t part, std::int64_t column,
                               bool inside, float x) {
  const bool first = threadIdx.x % kWarp == 0;
  const std::int64_t sum_place = token * readers.parts + part,
                     place = token * readers.width + column;
  if (!inside) x = 0;
  if (readers.norm) {
    const float squares = over_warp(x * x, Sum());
    if (first) readers.squares[sum_place] = squares;
    x *= scales.norm;
  }
#pragma unroll
  for (int n = 0; n < Readers::kMost; ++n) {
    if (n >= readers.count) break;
    const Reader& reader = readers.reader[n];
    if (inside) reader.scaled[place] = x * scales.alpha[n];
    const float sum = over_warp(x * scales.beta[n], Sum());
    if (first) reader.sums[sum_place] = sum;
  }
}

/// Of one token's input: the sum that a shift multiplies, and 1 / sqrt(mean(x²) + eps), or 1.
struct InputSums {
  float sum = 0, inverse_rms = 1;
};
/// A whole warp calls; all lanes receive the result.
__device__ inline InputSums sums_of(const ProductInput& input, std::int64_t token,
                                    std::int64_t width) {
  float sum = 0, squares = 0;
  for (std::int64_t part = threadIdx.x % kWarp; part < input.parts; part += kWarp) {
    sum += input.sums[token * input.parts + part];
    if (input.squares) squares += input.squares[token * input.parts + part];
  }
  InputSums sums;
  sums.sum = over_warp(sum, Sum());
  if (!input.squares) return sums;
  const float mean = over_warp(squares, Sum()) / static_cast<float>(width);
  sums.inverse_rms = 1 / sqrtf(mean + input.eps);
  return sums;
}

}  // namespace
}  // namespace fbi::kernels::cuda
