#include <cmath>

#include "fbi/core/error.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/readers.cuh"

/// The positions of a token are cut into splits of 64. Per head, a fixed number of blocks share the
/// splits, each with the softmax of its own ones (a running maximum); the block that is ready last
/// puts their results together, in one order whoever it is. The launch does not depend on the
/// position, so a graph of it serves every token; blocks without a split end at once.
///
/// Bound: memory. A layer of the 7B shape reads 16 KB of fp16 keys and values per position, 7 µs
/// for 2,048 positions at 4.8 TB/s. Of a split a thread asks for its 8 parts of keys and 8 of
/// values, 16 bytes each, before it uses one.
namespace fbi::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kSplit = 64;       // positions
constexpr int kWorkers = kWarp;  // blocks of a head, at most: a lane looks after each at the end
constexpr int kSize = kEight;    // values that a thread moves at once
constexpr int kDotLanes = 8;     // that share a score
constexpr int kDots = kThreads / kDotLanes;

/// Numbers in 32 bits where they are divided by or multiplied with each other only.
struct Attention {
  unsigned heads, head_dim;
  unsigned group;                             ///< heads that share keys and values
  unsigned width;                             ///< padded head
  unsigned workers;                           ///< of a head, at most
  std::int64_t position_values, first_value;  ///< in a cache: of a position, of the layer in it
  std::int64_t part_values;                   ///< of the keys of a layer
  const DecodeRow* rows;
  const float* queries;
  float* workspace;  ///< [token][head][worker][maximum, sum, value [width]]
  unsigned* counters;
  float factor;
  Readers readers;
};

/// One head's keys or values of one token.
template <class T>
struct Vectors {
  const T* first;
  std::int64_t stride;
  __device__ const T* at(std::int64_t position) const { return first + position * stride; }
};
template <class T>
__device__ inline Vectors<T> vectors_of(const Attention& args, std::int64_t part) {
  const T* cache = reinterpret_cast<const T*>(args.rows[blockIdx.z].cache);
  return {cache + args.first_value + part * args.part_values + blockIdx.y / args.group * args.width,
          args.position_values};
}

struct Scratch {
  alignas(16) float query[kMaxHeadDim];
  float scores[kSplit];
  alignas(16) float values[kThreads * kSize];  ///< [group][room]
  float weights[kWorkers];
  bool last;
};

/// A thread's part of a split, as it lies in the cache. Kernels have room for heads of up to 64,
/// 128 or 256 values; what they have too much of repeats the head's first elements, with a query of
/// 0, and is not handed in. So nothing is asked between two loads, and all are under way at once.
template <class T, int room>
struct Split {
  static constexpr int kKeys = kSplit / kDots;                ///< of a thread
  static constexpr int kKeyPacks = room / kSize / kDotLanes;  ///< of one of them
  static constexpr int kPacks = room / kSize;                 ///< threads that share a value
  static constexpr int kGroups = kThreads / kPacks;
  static constexpr int kValues = kSplit / kGroups;  ///< of a thread
  /// Whether registers hold both at once.
  static constexpr bool kTogether = room * sizeof(T) <= 512;

  T keys[kKeys][kKeyPacks][kSize], values[kValues][kSize];
};
__device__ inline unsigned least(unsigned a, unsigned b) {
  return a < b ? a : b;
}

/// Eight elements, past the first cache: no block needs them twice.
template <class T>
__device__ inline void fetch(T (&x)[kSize], const T* source) {
  constexpr int kWords = static_cast<int>(kSize * sizeof(T) / sizeof(uint4));
  uint4 words[kWords];
  for (int k = 0; k < kWords; ++k) words[k] = __ldcg(reinterpret_cast<const uint4*>(source) + k);
  memcpy(&x, words, sizeof x);
}
template <class T, int room>
__device__ inline void fetch_keys(Split<T, room>& split, const Attention& args,
                                  const Vectors<T>& keys, std::int64_t first, unsigned count) {
#pragma unroll
  for (int k = 0; k < split.kKeys; ++k) {
    const unsigned p = least(k * kDots + threadIdx.x / kDotLanes, count - 1);
#pragma unroll
    for (int i = 0; i < split.kKeyPacks; ++i) {
      const unsigned e = (i * kDotLanes + threadIdx.x % kDotLanes) * kSize;
      fetch(split.keys[k][i], keys.at(first + p) + (e < args.width ? e : 0));
    }
  }
}
template <class T, int room>
__device__ inline void fetch_values(Split<T, room>& split, const Attention& args,
                                    const Vectors<T>& values, std::int64_t first, unsigned count) {
  const unsigned e = threadIdx.x % split.kPacks * kSize, group = threadIdx.x / split.kPacks;
#pragma unroll
  for (int k = 0; k < split.kValues; ++k) {
    const unsigned p = least(k * split.kGroups + group, count - 1);
    fetch(split.values[k], values.at(first + p) + (e < args.width ? e : 0));
  }
}

/// The block's part of the softmax so far.
struct Softmax {
  float largest = -INFINITY, sum = 0;
  float values[kSize] = {};  ///< of the thread's own elements and positions
};

/// Scores of a split, -infinity behind its end.
template <class T, int room>
__device__ inline void score_split(const Split<T, room>& split, float factor, unsigned count,
                                   Scratch& scratch) {
  const unsigned lane = threadIdx.x % kDotLanes;
  float sums[split.kKeys] = {};
#pragma unroll
  for (int i = 0; i < split.kKeyPacks; ++i) {
    float query[kSize];
    load_eight(query, scratch.query + (i * kDotLanes + lane) * kSize);
    for (int k = 0; k < split.kKeys; ++k) {
      for (int j = 0; j < kSize; ++j)
        sums[k] = fmaf(query[j], to_float(split.keys[k][i][j]), sums[k]);
    }
  }
#pragma unroll
  for (int k = 0; k < split.kKeys; ++k) {
    for (int distance = kDotLanes / 2; distance > 0; distance /= 2) {
      sums[k] += __shfl_xor_sync(kAllLanes, sums[k], distance);
    }
    const unsigned p = k * kDots + threadIdx.x / kDotLanes;
    if (lane == 0) scratch.scores[p] = p < count ? sums[k] * factor : -INFINITY;
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

/// The splits of this block: worker, worker + workers, …
template <class T, int room>
__device__ inline void attend_splits(const Attention& args, std::int64_t positions,
                                     Scratch& scratch, Softmax& softmax) {
  const auto keys = vectors_of<T>(args, 0), values = vectors_of<T>(args, 1);
  Split<T, room> split;
  const unsigned group = threadIdx.x / split.kPacks, pack = threadIdx.x % split.kPacks;
  for (std::int64_t first = std::int64_t{blockIdx.x} * kSplit; first < positions;
       first += std::int64_t{args.workers} * kSplit) {
    const std::int64_t left = positions - first;
    const auto count = static_cast<unsigned>(left < kSplit ? left : kSplit);
    fetch_keys(split, args, keys, first, count);
    if (split.kTogether) fetch_values(split, args, values, first, count);
    __syncthreads();  // the query is there; the weights of the split before have been used
    score_split(split, args.factor, count, scratch);
    if (!split.kTogether) fetch_values(split, args, values, first, count);
    weigh_split(scratch, softmax);
#pragma unroll
    for (int k = 0; k < split.kValues; ++k) {
      const float weight = scratch.scores[k * split.kGroups + group];  // 0 behind the end
      for (int j = 0; j < kSize; ++j) {
        softmax.values[j] = fmaf(weight, to_float(split.values[k][j]), softmax.values[j]);
      }
    }
  }
  float* place = scratch.values + group * room + pack * kSize;
  for (int j = 0; j < kSize; ++j) place[j] = softmax.values[j];
}

/// [maximum, sum, value [width]] of a worker.
__device__ inline float* result_of(const Attention& args, std::int64_t worker) {
  const std::int64_t head = std::int64_t{blockIdx.z} * args.heads + blockIdx.y;
  return args.workspace + (head * args.workers + worker) * (args.width + 2);
}

/// Writes this block's result; whether it was the last of its head.
template <int room>
__device__ inline bool hand_in(const Attention& args, unsigned workers, Scratch& scratch,
                               const Softmax& softmax) {
  float* result = result_of(args, blockIdx.x);
  __syncthreads();
  for (unsigned e = threadIdx.x; e < args.width; e += kThreads) {
    float sum = 0;
    for (int group = 0; group < kThreads * kSize / room; ++group)
      sum += scratch.values[group * room + e];
    result[2 + e] = sum;
  }
  if (threadIdx.x == 0) {
    result[0] = softmax.largest;
    result[1] = softmax.sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned* counter = args.counters + blockIdx.z * args.heads + blockIdx.y;
    // Fences cover what the barriers order before and after them: one thread's are enough for what
    // its block wrote, and for what it is about to read.
    __threadfence();
    scratch.last = atomicAdd(counter, 1u) == workers - 1;
    __threadfence();
    if (scratch.last) *counter = 0;
  }
  __syncthreads();
  return scratch.last;
}

/// All workers' results in one.
__device__ inline void put_together(const Attention& args, unsigned workers, Scratch& scratch) {
  if (threadIdx.x < kWarp) {
    const bool own = threadIdx.x < workers;
    const float* result = result_of(args, threadIdx.x);
    const float largest = own ? __ldcg(result) : -INFINITY, sum = own ? __ldcg(result + 1) : 0;
    const float all = over_warp(largest, [](float x, float y) { return fmaxf(x, y); });
    const float weight = own ? expf(largest - all) : 0;
    scratch.weights[threadIdx.x] = weight / over_warp(weight * sum, Sum());
  }
  __syncthreads();
  const unsigned parts = (args.head_dim + kWarp - 1) / kWarp;
  for (unsigned part = threadIdx.x / kWarp; part < parts; part += kWarps) {
    const std::int64_t e = part * kWarp + threadIdx.x % kWarp,
                       column = blockIdx.y * args.head_dim + e;
    const bool inside = e < args.head_dim;
    const ReaderScales scales = scales_of(args.readers, column, inside);
    const float* value = result_of(args, 0) + 2 + (inside ? e : 0);
    float x = 0;
#pragma unroll 8
    for (unsigned worker = 0; worker < workers; ++worker) {
      x = fmaf(scratch.weights[worker], __ldcg(value + worker * (args.width + 2)), x);
    }
    publish(args.readers, scales, blockIdx.z, blockIdx.y * parts + part, column, inside, x);
  }
}

/// Blocks: workers, heads, tokens.
template <class T, int room>
__global__ void __launch_bounds__(kThreads) attend_kernel(const __grid_constant__ Attention args) {
  __shared__ Scratch scratch;
  const std::int64_t positions = args.rows[blockIdx.z].position + 1,
                     splits = ceil_div(positions, kSplit);
  const auto workers = static_cast<unsigned>(splits < args.workers ? splits : args.workers);
  if (blockIdx.x >= workers) return;
  wait_for_previous();
  const float* query =
      args.queries + (std::int64_t{blockIdx.z} * args.heads + blockIdx.y) * args.head_dim;
  for (unsigned e = threadIdx.x; e < room; e += kThreads) {
    scratch.query[e] = e < args.head_dim ? query[e] : 0;
  }
  Softmax softmax;
  attend_splits<T, room>(args, positions, scratch, softmax);
  if (hand_in<room>(args, workers, scratch, softmax)) put_together(args, workers, scratch);
}

template <class T>
auto kernel_for(std::int64_t width) {
  return width <= 64    ? attend_kernel<T, 64>
         : width <= 128 ? attend_kernel<T, 128>
                        : attend_kernel<T, kMaxHeadDim>;
}

unsigned workers_of(const AttentionShape& shape) {
  const std::int64_t splits = ceil_div(shape.most_positions, kSplit);
  return static_cast<unsigned>(splits < kWorkers ? splits : kWorkers);
}

}  // namespace

std::int64_t attend_workspace(const AttentionShape& shape, std::int64_t tokens) {
  return tokens * shape.heads * workers_of(shape) * (padded_head(shape.head_dim) + 2);
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
  const AttentionShape& shape = args.shape;
  const std::int64_t width = padded_head(shape.head_dim);
  attention.heads = static_cast<unsigned>(shape.heads);
  attention.head_dim = static_cast<unsigned>(shape.head_dim);
  attention.group = static_cast<unsigned>(shape.heads / shape.key_value_heads);
  attention.width = static_cast<unsigned>(width);
  attention.workers = workers_of(shape);
  attention.part_values = shape.key_value_heads * width;
  attention.position_values = shape.layers * 2 * attention.part_values;
  attention.first_value = shape.layer * 2 * attention.part_values;
  attention.rows = args.rows;
  attention.queries = args.queries;
  attention.workspace = args.workspace;
  attention.counters = args.counters;
  attention.factor = 1 / std::sqrt(static_cast<float>(args.shape.head_dim));
  attention.readers = readers;
  launch_early(
      "attend",
      shape.cache == CacheType::kFp32 ? kernel_for<float>(width) : kernel_for<__half>(width),
      Grid{attention.workers, args.shape.heads, args.tokens}, kThreads, stream, attention);
}

}  // namespace fbi::kernels::cuda
