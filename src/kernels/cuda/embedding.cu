#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

namespace fbi::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSize = 4;   // columns of a thread
constexpr int kAhead = 8;  // rows that are on their way at once: frequent ids have hundreds

/// Blocks: places in the sorted ids, parts of the columns. Those of an id's first place add all
/// rows of this id, the others end.
template <class T>
__global__ void __launch_bounds__(kThreads)
    embedding_kernel(EmbeddingGradientArgs args, bool whole) {
  const std::int64_t first = blockIdx.x, id = args.ids[first];
  if (first > 0 && args.ids[first - 1] == id) return;
  if (id == args.skip_id || id < 0 || id >= args.rows) return;
  const std::int64_t column = (std::int64_t{blockIdx.y} * kThreads + threadIdx.x) * kSize;
  const std::int64_t left = args.width - column;
  if (left <= 0) return;

  const T* dx = static_cast<const T*>(args.dx) + column;
  float* grad = args.grad + id * args.width + column;
  float sum[kSize];
  load(sum, grad, left, whole);
  for (std::int64_t place = first; place < args.tokens; place += kAhead) {
    bool same[kAhead];
    float row[kAhead][kSize];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) same[k] = place + k < args.tokens && args.ids[place + k] == id;
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (same[k]) load(row[k], dx + args.order[place + k] * args.width, left, whole);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      for (int j = 0; same[k] && j < kSize; ++j) sum[j] += row[k][j];
    }
    if (!same[kAhead - 1]) break;
  }
  store(grad, sum, left, whole);
}

}  // namespace

void accumulate_embedding_gradient(const EmbeddingGradientArgs& args, Stream stream) {
  with_type(args.type, [&](auto element) {
    using T = decltype(element);
    const bool whole = args.width % kSize == 0 && aligned_to(args.grad, sizeof(float) * kSize) &&
                       aligned_to(args.dx, sizeof(T) * kSize);
    launch("accumulate_embedding_gradient", embedding_kernel<T>,
           Grid{args.tokens, ceil_div(args.width, std::int64_t{kThreads} * kSize)}, kThreads,
           stream, args, whole);
  });
}

}  // namespace fbi::kernels::cuda
