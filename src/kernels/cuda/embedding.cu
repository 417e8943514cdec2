#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

namespace fbi::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

/// grad[c] += dx[c], a thread its own columns: all additions to an element are one thread's.
template <class T>
__device__ inline void add_row(float* grad, const T* dx, std::int64_t width) {
  for (std::int64_t c = threadIdx.x; c < width; c += kThreads) grad[c] += to_float(dx[c]);
}

/// One block per token. That of an id's first token adds all rows of this id, the others end.
template <class T>
__global__ void __launch_bounds__(kThreads) embedding_kernel(EmbeddingGradientArgs args) {
  __shared__ unsigned same[kWarps];
  const std::int64_t first = blockIdx.x, id = args.ids[first];
  if (id == args.skip_id || id < 0 || id >= args.rows) return;
  int earlier = 0;
  for (std::int64_t t = threadIdx.x; t < first; t += kThreads) earlier += args.ids[t] == id;
  if (over_block(earlier, Sum()) != 0) return;

  const T* dx = static_cast<const T*>(args.dx);
  float* grad = args.grad + id * args.width;
  for (std::int64_t begin = first; begin < args.tokens; begin += kThreads) {
    const std::int64_t t = begin + threadIdx.x;
    const unsigned found = __ballot_sync(kAllLanes, t < args.tokens && args.ids[t] == id);
    __syncthreads();  // everybody has read those of the tokens before
    if (threadIdx.x % kWarp == 0) same[threadIdx.x / kWarp] = found;
    __syncthreads();
    for (int warp = 0; warp < kWarps; ++warp) {
      for (unsigned left = same[warp]; left != 0; left &= left - 1) {
        const std::int64_t token = begin + warp * kWarp + __ffs(static_cast<int>(left)) - 1;
        add_row(grad, dx + token * args.width, args.width);
      }
    }
  }
}

}  // namespace

void accumulate_embedding_gradient(const EmbeddingGradientArgs& args, Stream stream) {
  with_type(args.type, [&](auto element) {
    launch("accumulate_embedding_gradient", embedding_kernel<decltype(element)>, Grid{args.tokens},
           kThreads, stream, args);
  });
}

}  // namespace fbi::kernels::cuda
