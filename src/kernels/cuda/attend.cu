#include <cmath>

#include "fbi/core/error.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/readers.cuh"

/// The positions of a token are cut into splits of 64. Per head, a fixed number of blocks share the
/// splits, each with the softmax of its own ones (a running maximum); the block that is ready last
/// puts their results together, in one order whoever it is. The launch does not depend on the
/// position, so a graph of it serves every token; blocks without a split end at once.
///
/// Bound: memory. A layer of the 7B shape reads 32 KB of fp16 keys and values per position, 14 µs
/// for 2,048 positions at 4.8 TB/s; 32 heads times 32 blocks of 4 warps are 8 blocks on each of 132
/// multiprocessors, with 8 loads of 16 bytes under way in each thread.
namespace fbi::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kSplit = 64;       // positions
constexpr int kWorkers = kWarp;  // blocks of a head, at most: a lane looks after each at the end
constexpr int kSize = 8;         // values that a thread moves at once
constexpr int kDotLanes = 8;     // that share a score
constexpr int kDots = kThreads / kDotLanes;

struct Attention {
  AttentionShape shape;
  std::int64_t width;  ///< padded head
  const DecodeRow* rows;
  const float* queries;
  float* workspace;  ///< [token][head][worker][maximum, sum, value [width]]
  unsigned* counters;
  float factor;
  Readers readers;
};

__device__ inline void load_values(float (&x)[kSize], const float* source) {
  float low[4], high[4];
  load_pack(low, source);
  load_pack(high, source + 4);
  for (int j = 0; j < 4; ++j) {
    x[j] = low[j];
    x[4 + j] = high[j];
  }
}
__device__ inline void load_values(float (&x)[kSize], const __half* source) {
  __half pack[kSize];
  load_pack(pack, source);
  for (int j = 0; j < kSize; ++j) x[j] = to_float(pack[j]);
}

/// One head's keys or values of one token.
template <class T>
struct Vectors {
  const T* first;
  std::int64_t stride;
  __device__ const T* at(std::int64_t position) const { return first + position * stride; }
};
template <class T>
__device__ inline Vectors<T> vectors_of(const Attention& args, std::int64_t part) {
  const AttentionShape& shape = args.shape;
  const std::int64_t head = blockIdx.y / (shape.heads / shape.key_value_heads);
  const std::int64_t vector = shape.key_value_heads * args.width;
  return {reinterpret_cast<const T*>(args.rows[blockIdx.z].cache) +
              (shape.layer * 2 + part) * vector + head * args.width,
          shape.layers * 2 * vector};
}

struct Scratch {
  alignas(16) float query[kMaxHeadDim];
  float scores[kSplit];
  float values[kThreads * kSize];  ///< [group][width]
  float weights[kWorkers];
  bool last;
};

/// The block's part of the softmax so far.
struct Softmax {
  float largest = -INFINITY, sum = 0;
  float values[kSize] = {};  ///< of the thread's own elements and positions
};

/// Scores of a split, -infinity behind its end.
template <class T>
__device__ inline void score_split(const Attention& args, const Vectors<T>& keys,
                                   std::int64_t first, int count, Scratch& scratch) {
  const int lane = static_cast<int>(threadIdx.x % kDotLanes);
#pragma unroll
  for (int pass = 0; pass < kSplit / kDots; ++pass) {
    const int p = pass * kDots + static_cast<int>(threadIdx.x / kDotLanes);
    float sum = 0;
    for (std::int64_t e = lane * kSize; p < count && e < args.width; e += kDotLanes * kSize) {
      float key[kSize];
      load_values(key, keys.at(first + p) + e);
      for (int j = 0; j < kSize; ++j) sum = fmaf(scratch.query[e + j], key[j], sum);
    }
    for (int distance = kDotLanes / 2; distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(kAllLanes, sum, distance);
    }
    if (lane == 0) scratch.scores[p] = p < count ? sum * args.factor : -INFINITY;
  }
}

/// From scores to exp(score - largest); the sum of those so far.
__device__ inline void weigh_split(Scratch& scratch, Softmax& softmax) {
  const unsigned lane = threadIdx.x % kWarp;
  __syncthreads();
  const float a = scratch.scores[lane], b = scratch.scores[lane + kWarp];
  const float largest =
      over_warp(fmaxf(fmaxf(a, b), softmax.largest), [](float x, float y) { return fmaxf(x, y); });
  const float before = expf(softmax.largest - largest);
  __syncthreads();
  if (threadIdx.x < kSplit) {
    scratch.scores[threadIdx.x] = expf(scratch.scores[threadIdx.x] - largest);
  }
  __syncthreads();
  const float sum = over_warp(scratch.scores[lane] + scratch.scores[lane + kWarp], Sum());
  softmax.sum = fmaf(softmax.sum, before, sum);
  softmax.largest = largest;
  for (float& value : softmax.values) value *= before;
}

/// The splits of this block: worker, worker + kWorkers, …
template <class T>
__device__ inline void attend_splits(const Attention& args, std::int64_t positions,
                                     Scratch& scratch, Softmax& softmax) {
  const auto keys = vectors_of<T>(args, 0), values = vectors_of<T>(args, 1);
  const int packs = static_cast<int>(args.width / kSize), groups = kThreads / packs;
  const int pack = static_cast<int>(threadIdx.x) % packs,
            group = static_cast<int>(threadIdx.x) / packs;
  for (std::int64_t split = blockIdx.x; split * kSplit < positions; split += kWorkers) {
    const std::int64_t first = split * kSplit, left = positions - first;
    const int count = static_cast<int>(left < kSplit ? left : kSplit);
    __syncthreads();  // the query is there; the weights of the split before have been used
    score_split(args, keys, first, count, scratch);
    weigh_split(scratch, softmax);
    if (group >= groups) continue;  // where the packs do not divide the threads
#pragma unroll 4
    for (int p = group; p < count; p += groups) {
      float value[kSize];
      load_values(value, values.at(first + p) + pack * kSize);
      for (int j = 0; j < kSize; ++j) {
        softmax.values[j] = fmaf(scratch.scores[p], value[j], softmax.values[j]);
      }
    }
  }
  if (group >= groups) return;
  for (int j = 0; j < kSize; ++j) {
    scratch.values[group * args.width + pack * kSize + j] = softmax.values[j];
  }
}

/// [maximum, sum, value [width]] of a worker.
__device__ inline float* result_of(const Attention& args, std::int64_t worker) {
  const std::int64_t head = blockIdx.z * args.shape.heads + blockIdx.y;
  return args.workspace + (head * kWorkers + worker) * (args.width + 2);
}

/// Writes this block's result; whether it was the last of its head.
__device__ inline bool hand_in(const Attention& args, unsigned workers, Scratch& scratch,
                               const Softmax& softmax) {
  const int groups = static_cast<int>(kThreads * kSize / args.width);
  float* result = result_of(args, blockIdx.x);
  __syncthreads();
  for (std::int64_t e = threadIdx.x; e < args.width; e += kThreads) {
    float sum = 0;
    for (int group = 0; group < groups; ++group) sum += scratch.values[group * args.width + e];
    result[2 + e] = sum;
  }
  if (threadIdx.x == 0) {
    result[0] = softmax.largest;
    result[1] = softmax.sum;
  }
  __threadfence();  // whoever sees the count sees the result
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned* counter = args.counters + blockIdx.z * args.shape.heads + blockIdx.y;
    scratch.last = atomicAdd(counter, 1u) == workers - 1;
    if (scratch.last) *counter = 0;
  }
  __syncthreads();
  return scratch.last;
}

/// All workers' results in one.
__device__ inline void put_together(const Attention& args, unsigned workers, Scratch& scratch) {
  __threadfence();
  if (threadIdx.x < kWarp) {
    const bool own = threadIdx.x < workers;
    const float* result = result_of(args, threadIdx.x);
    const float largest = own ? __ldcg(result) : -INFINITY, sum = own ? __ldcg(result + 1) : 0;
    const float all = over_warp(largest, [](float x, float y) { return fmaxf(x, y); });
    const float weight = own ? expf(largest - all) : 0;
    scratch.weights[threadIdx.x] = weight / over_warp(weight * sum, Sum());
  }
  __syncthreads();
  const std::int64_t head_dim = args.shape.head_dim, parts = ceil_div(head_dim, kWarp);
  for (std::int64_t part = threadIdx.x / kWarp; part < parts; part += kWarps) {
    const std::int64_t e = part * kWarp + threadIdx.x % kWarp, column = blockIdx.y * head_dim + e;
    const bool inside = e < head_dim;
    const ReaderScales scales = scales_of(args.readers, column, inside);
    float x = 0;
    for (unsigned worker = 0; worker < workers && inside; ++worker) {
      x = fmaf(scratch.weights[worker], __ldcg(result_of(args, worker) + 2 + e), x);
    }
    publish(args.readers, scales, blockIdx.z, blockIdx.y * parts + part, column, inside, x);
  }
}

/// Blocks: workers, heads, tokens.
template <class T>
__global__ void __launch_bounds__(kThreads) attend_kernel(const __grid_constant__ Attention args) {
  __shared__ Scratch scratch;
  const std::int64_t positions = args.rows[blockIdx.z].position + 1,
                     splits = ceil_div(positions, kSplit);
  const auto workers = static_cast<unsigned>(splits < kWorkers ? splits : kWorkers);
  if (blockIdx.x >= workers) return;
  const std::int64_t head_dim = args.shape.head_dim;
  const float* query = args.queries + (blockIdx.z * args.shape.heads + blockIdx.y) * head_dim;
  for (std::int64_t e = threadIdx.x; e < args.width; e += kThreads) {
    scratch.query[e] = e < head_dim ? query[e] : 0;
  }
  Softmax softmax;
  attend_splits<T>(args, positions, scratch, softmax);
  if (hand_in(args, workers, scratch, softmax)) put_together(args, workers, scratch);
}

}  // namespace

std::int64_t attend_workspace(const AttentionShape& shape, std::int64_t tokens) {
  return tokens * shape.heads * kWorkers * (padded_head(shape.head_dim) + 2);
}
std::int64_t attend_counters(const AttentionShape& shape, std::int64_t tokens) {
  return tokens * shape.heads;
}

void attend(const AttendTokensArgs& args, const Readers& readers, Stream stream) {
  if (args.shape.head_dim > kMaxHeadDim) {
    throw UsageError("attention on a GPU: heads of up to " + std::to_string(kMaxHeadDim) +
                     " values, found head_dim " + std::to_string(args.shape.head_dim));
  }
  Attention attention = {};
  attention.shape = args.shape;
  attention.width = padded_head(args.shape.head_dim);
  attention.rows = args.rows;
  attention.queries = args.queries;
  attention.workspace = args.workspace;
  attention.counters = args.counters;
  attention.factor = 1 / std::sqrt(static_cast<float>(args.shape.head_dim));
  attention.readers = readers;
  launch("attend",
         args.shape.cache == CacheType::kFp32 ? attend_kernel<float> : attend_kernel<__half>,
         Grid{kWorkers, args.shape.heads, args.tokens}, kThreads, stream, attention);
}

}  // namespace fbi::kernels::cuda
