#include "fbi/core/error.h"
#include "kernels/blocks.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/readers.cuh"

/// A block computes 32 rows, one per lane; its warps share the columns in chunks of 128. For a
/// chunk a warp builds, in shared memory, one table per 4 columns with the sums of ±x for all 16
/// sign combinations, 4 columns a lane; then each lane looks its row's 32 nibbles up. All lanes
/// look into one table at a time, whose 16 words lie in different banks: no conflicts. While a warp
/// looks up, the next chunk is on its way.
///
/// Bound. For 4,096 weights a warp moves 512 bytes of signs from memory and as many bytes of inputs
/// from the L2 cache; shared memory takes 32 accesses for the look-ups and 16 for the tables, 85
/// weights per clock and multiprocessor; and some 170 instructions are issued, 4 per clock. On 132
/// multiprocessors at 1.7 GHz the 6.5 billion weights of the 7B model then take 0.34 ms, against
/// 0.17 ms for reading their 0.81 GB at 4.8 TB/s and 0.3 ms for signs and inputs from an L2 cache
/// of 5.5 TB/s. A select and an addition per weight would take 0.7 to 0.9 ms. The head adds 0.06
/// ms, and 162 launches 0.2 to 0.3 ms if each start and end in a graph takes 1 to 2 µs and
/// beginning early hides none of it. Nothing of this is measured.
namespace fbi::kernels::cuda {
namespace {

constexpr int kMaxWarps = 16;
constexpr int kChunk = 128;  // columns
constexpr int kGroup = 4;    // columns of a table
constexpr int kGroups = kChunk / kGroup;
constexpr int kEntries = 1 << kGroup;
// So that the lanes' tables begin in different banks when they are written.
constexpr int kTableStride = kEntries + 4;
constexpr int kThreads = 256;  // of repacking

// ---- signs in the kernels' order

/// The row of the matrix at a place of the repacked one. In 32 bits, as all of the kernels that a
/// device divides: 64 take it hundreds of clocks.
__device__ inline unsigned source_row(unsigned row, unsigned head_dim) {
  if (head_dim == 0) return row;
  const unsigned within = row % head_dim;
  return row - within + within / 2 + within % 2 * (head_dim / 2);
}

__global__ void __launch_bounds__(kThreads)
    repack_kernel(const std::uint8_t* bits, MatrixShape shape, unsigned head_dim,
                  std::int64_t chunks, std::uint8_t* words) {
  constexpr int kBytes = kChunk / 8;
  const std::int64_t place = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;  // of a byte
  const std::int64_t lane = place / kBytes % kWarp, chunk = place / (kBytes * kWarp) % chunks;
  const std::int64_t row = place / (kBytes * kWarp * chunks) * kWarp + lane,
                     byte = chunk * kBytes + place % kBytes;
  if (row >= ceil_div(shape.rows, kWarp) * kWarp) return;
  const bool inside = row < shape.rows && byte < row_bytes(shape.columns);
  words[place] =
      inside
          ? bits[source_row(static_cast<unsigned>(row), head_dim) * row_bytes(shape.columns) + byte]
          : 0;
}

// ---- the product

struct Product {
  const uint4* words;
  const float* alpha;  ///< of rows, or null
  const float* beta;
  std::int64_t row_stride;
  MatrixShape shape;
  unsigned head_dim;  ///< that it was repacked with
  std::int64_t chunks;
  ProductInput input;
  bool whole;  ///< the input can be moved in packs
};

/// Of a block.
struct Scratch {
  alignas(256) float tables[kMaxWarps][kGroups * kTableStride];
  float row_sums[kMaxWarps][kWarp];
};
static_assert(sizeof(Scratch::tables[0]) % 256 == 0);  // see look_up

/// The 16 sums of ±a, the sign of a[j] by bit j of the index.
__device__ inline void write_table(const float (&a)[kGroup], float* table) {
  const float low[4] = {-a[0] - a[1], a[0] - a[1], a[1] - a[0], a[0] + a[1]};
  const float high[4] = {-a[2] - a[3], a[2] - a[3], a[3] - a[2], a[2] + a[3]};
  for (int k = 0; k < 4; ++k) {
    const float4 entries = {low[0] + high[k], low[1] + high[k], low[2] + high[k], low[3] + high[k]};
    *reinterpret_cast<float4*>(table + 4 * k) = entries;
  }
}

/// Σ of the entries that the nibbles of 32 columns choose. `tables`: the address of the first one
/// in shared memory, a multiple of 256. 4 times a nibble fits into a byte, so one instruction makes
/// an entry's address, and the table's own offset is part of the load.
__device__ inline float look_up(unsigned word, unsigned tables, int first) {
  constexpr unsigned kNibbles = 0x3C3C3C3C;  // times 4, one a byte
  const unsigned nibbles[2] = {word << 2 & kNibbles, word >> 2 & kNibbles};
  float sum = 0;
#pragma unroll
  for (int k = 0; k < 32 / kGroup; ++k) {
    const unsigned entry =
        __byte_perm(nibbles[k % 2], tables, 0x7650u + static_cast<unsigned>(k / 2));
    sum += static_cast<const float*>(__cvta_shared_to_generic(entry))[(first + k) * kTableStride];
  }
  return sum;
}

/// The way of a lane through its warp's chunks, the first of whose signs are under way when it
/// begins: no earlier launch writes signs.
struct Walk {
  uint4 signs = {};      ///< of the lane's row in this chunk
  float x[kGroup] = {};  ///< the inputs whose table the lane writes
  const uint4* signs_at;
  const float* x_at;
  int columns;    ///< from x_at on, 0 or less behind the last one
  int chunks;     ///< from here on, those of the other warps counted
  unsigned step;  ///< from a chunk to the warp's next, in uint4
  bool whole;

  __device__ Walk(const Product& w, std::int64_t row_block, std::int64_t token)
      : step(blockDim.x), whole(w.whole) {
    const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    const int column = static_cast<int>(warp * kChunk + lane * kGroup);
    signs_at = w.words + row_block * w.chunks * kWarp + threadIdx.x;
    x_at = w.input.scaled + token * w.shape.columns + column;
    columns = static_cast<int>(w.shape.columns) - column;
    chunks = static_cast<int>(w.chunks) - static_cast<int>(warp);
    if (chunks > 0) signs = *signs_at;
  }
  __device__ void fetch_inputs() {
    if (chunks > 0) load(x, x_at, columns, whole);
  }
  __device__ void go_on() {
    signs_at += step;
    x_at += step * kGroup;
    columns -= static_cast<int>(step * kGroup);
    chunks -= static_cast<int>(step / kWarp);
    if (chunks <= 0) return;
    signs = *signs_at;
    load(x, x_at, columns, whole);
  }
};

/// The warp's share of Σ ±x, a row per lane.
__device__ inline float share_of_rows(Walk walk, Scratch& scratch) {
  float* tables = scratch.tables[threadIdx.x / kWarp];
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(tables));
  constexpr int kWordTables = 32 / kGroup;
  float sum = 0;
  while (walk.chunks > 0) {
    const uint4 signs = walk.signs;
    __syncwarp();  // nobody reads the tables of the chunk before any more
    write_table(walk.x, tables + threadIdx.x % kWarp * kTableStride);
    walk.go_on();
    __syncwarp();
    sum += look_up(signs.x, address, 0) + look_up(signs.y, address, kWordTables);
    sum += look_up(signs.z, address, 2 * kWordTables) + look_up(signs.w, address, 3 * kWordTables);
  }
  return sum;
}

/// The products of the block's rows. All threads call; the lanes of the first warp receive theirs.
__device__ inline float multiply_rows(Walk walk, const Product& w, std::int64_t row_block,
                                      std::int64_t token, Scratch& scratch) {
  const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
  walk.fetch_inputs();
  InputSums input;  // while the first chunk is on its way
  if (warp == 0) input = sums_of(w.input, token, w.shape.columns);
  float sum = share_of_rows(walk, scratch);
  __syncthreads();  // the sums of the product before have been read
  scratch.row_sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0) return 0;
  for (unsigned k = 1; k < warps; ++k) sum += scratch.row_sums[k][lane];
  const std::int64_t row = row_block * kWarp + lane;
  if (w.alpha && row < w.shape.rows) {
    const std::int64_t scale = source_row(static_cast<unsigned>(row), w.head_dim) * w.row_stride;
    sum = fmaf(w.alpha[scale], sum, w.beta[scale] * input.sum);
  } else {
    sum += input.sum;
  }
  return sum * input.inverse_rms;
}

// ---- what becomes of it

__global__ void __launch_bounds__(kMaxWarps* kWarp, 2)
    multiply_add_kernel(Product w, float* residual, Readers readers) {
  __shared__ Scratch scratch;
  const std::int64_t token = blockIdx.y, row = std::int64_t{blockIdx.x} * kWarp + threadIdx.x;
  const bool inside = row < w.shape.rows;  // of the first warp
  float* place = residual + token * w.shape.rows + row;
  const Walk walk(w, blockIdx.x, token);
  ReaderScales scales;
  if (threadIdx.x < kWarp) scales = scales_of(readers, row, inside);
  wait_for_previous();
  const float before = threadIdx.x < kWarp && inside ? *place : 0;
  const float x = before + multiply_rows(walk, w, blockIdx.x, token, scratch);
  if (threadIdx.x >= kWarp) return;
  if (inside) *place = x;
  publish(readers, scales, token, blockIdx.x, row, inside, x);
}

__global__ void __launch_bounds__(kMaxWarps* kWarp, 2)
    gate_kernel(Product gate, Product up, Readers readers) {
  __shared__ Scratch scratch;
  const std::int64_t token = blockIdx.y, row = std::int64_t{blockIdx.x} * kWarp + threadIdx.x;
  const bool inside = row < gate.shape.rows;
  const Walk walk(gate, blockIdx.x, token);
  ReaderScales scales;
  if (threadIdx.x < kWarp) scales = scales_of(readers, row, inside);
  wait_for_previous();
  const float g = multiply_rows(walk, gate, blockIdx.x, token, scratch);
  const float u = multiply_rows(Walk(up, blockIdx.x, token), up, blockIdx.x, token, scratch);
  if (threadIdx.x >= kWarp) return;
  publish(readers, scales, token, blockIdx.x, row, inside, g / (1 + expf(-g)) * u);
}

struct Projection {
  Product product[3];  ///< q, k, v
  unsigned blocks[3];
  CacheType cache;
  unsigned head_dim, cache_width;             ///< of a head, without and with padding
  std::int64_t position_values, first_value;  ///< in a cache: of a position, of the layer in it
  std::int64_t part_values;                   ///< of the keys of a layer
  const DecodeRow* rows;
  const float* angles;
  float* queries;
};

/// The two elements of a pair are in neighbouring lanes.
__device__ inline float rotated(const Projection& args, std::int64_t token, unsigned row, float x) {
  const unsigned within = row % args.head_dim, pair = within / 2;
  const float other = __shfl_xor_sync(kAllLanes, x, 1);
  const float* angles = args.angles + token * args.head_dim;
  const float cos = angles[pair], sin = angles[args.head_dim / 2 + pair];
  return within % 2 == 0 ? x * cos - other * sin : x * cos + other * sin;
}

/// `part`: 0 for a key, 1 for a value; `element` counts over the heads.
template <class T>
__device__ inline void store_in_cache(const Projection& args, std::int64_t token, int part,
                                      unsigned element, float x) {
  const DecodeRow place = args.rows[token];
  const unsigned head = element / args.head_dim, within = element % args.head_dim;
  reinterpret_cast<T*>(place.cache)[place.position * args.position_values + args.first_value +
                                    part * args.part_values + head * args.cache_width + within] =
      rounded<T>(x);
}

__global__ void __launch_bounds__(kMaxWarps* kWarp, 2)
    project_kernel(const __grid_constant__ Projection args) {
  __shared__ Scratch scratch;
  unsigned block = blockIdx.x;
  int n = 0;
  for (; n < 2 && block >= args.blocks[n]; ++n) block -= args.blocks[n];
  const Product& w = n == 0 ? args.product[0] : n == 1 ? args.product[1] : args.product[2];
  const std::int64_t token = blockIdx.y;
  const Walk walk(w, block, token);
  wait_for_previous();
  float x = multiply_rows(walk, w, block, token, scratch);
  if (threadIdx.x >= kWarp) return;
  const unsigned row = block * kWarp + threadIdx.x;
  if (n < 2) x = rotated(args, token, row, x);
  if (row >= w.shape.rows) return;
  const unsigned element = source_row(row, w.head_dim);
  if (n == 0) {
    args.queries[token * w.shape.rows + element] = x;
  } else if (args.cache == CacheType::kFp32) {
    store_in_cache<float>(args, token, n - 1, element, x);
  } else {
    store_in_cache<__half>(args, token, n - 1, element, x);
  }
}

Product product_of(const RepackedMatrix& w, const ProductInput& input, std::int64_t head_dim = 0) {
  check_strides(w.strides);
  const bool per_column = w.strides.column != 0;
  return {static_cast<const uint4*>(w.words),
          per_column ? nullptr : w.alpha,
          per_column ? nullptr : w.beta,
          w.strides.row,
          w.shape,
          static_cast<unsigned>(head_dim),
          ceil_div(w.shape.columns, kChunk),
          input,
          w.shape.columns % kGroup == 0 && aligned_to(input.scaled, 16)};
}

int threads_of(const Product& product) {
  return static_cast<int>(product.chunks < kMaxWarps ? product.chunks : kMaxWarps) * kWarp;
}

}  // namespace

std::int64_t repacked_bytes(MatrixShape shape) {
  return ceil_div(shape.rows, kWarp) * ceil_div(shape.columns, kChunk) * kWarp * kChunk / 8;
}

void repack_signs(const std::uint8_t* bits, MatrixShape shape, std::int64_t head_dim, void* words,
                  Stream stream) {
  launch("repack_signs", repack_kernel, Grid{ceil_div(repacked_bytes(shape), kThreads)}, kThreads,
         stream, bits, shape, static_cast<unsigned>(head_dim), ceil_div(shape.columns, kChunk),
         static_cast<std::uint8_t*>(words));
}

std::int64_t reader_parts(std::int64_t heads, std::int64_t head_dim) {
  return heads * ceil_div(head_dim, kWarp);
}

void multiply_add(const RepackedMatrix& w, const ProductInput& input, std::int64_t tokens,
                  float* residual, const Readers& readers, Stream stream) {
  const Product product = product_of(w, input);
  launch_early("multiply_add", multiply_add_kernel, Grid{ceil_div(w.shape.rows, kWarp), tokens},
               threads_of(product), stream, product, residual, readers);
}

void gate(const RepackedMatrix& gate, const ProductInput& gate_input, const RepackedMatrix& up,
          const ProductInput& up_input, std::int64_t tokens, const Readers& readers,
          Stream stream) {
  const Product g = product_of(gate, gate_input), u = product_of(up, up_input);
  launch_early("gate", gate_kernel, Grid{ceil_div(gate.shape.rows, kWarp), tokens}, threads_of(g),
               stream, g, u, readers);
}

void project(const ProjectArgs& args, Stream stream) {
  const RepackedMatrix* matrices[3] = {&args.q, &args.k, &args.v};
  const ProductInput* inputs[3] = {&args.q_input, &args.k_input, &args.v_input};
  Projection projection = {};
  std::int64_t blocks = 0;
  for (int n = 0; n < 3; ++n) {
    projection.product[n] = product_of(*matrices[n], *inputs[n], n < 2 ? args.shape.head_dim : 0);
    projection.blocks[n] = static_cast<unsigned>(ceil_div(matrices[n]->shape.rows, kWarp));
    blocks += projection.blocks[n];
  }
  const AttentionShape& shape = args.shape;
  projection.cache = shape.cache;
  projection.head_dim = static_cast<unsigned>(shape.head_dim);
  projection.cache_width = static_cast<unsigned>(padded_head(shape.head_dim));
  projection.part_values = shape.key_value_heads * padded_head(shape.head_dim);
  projection.position_values = shape.layers * 2 * projection.part_values;
  projection.first_value = shape.layer * 2 * projection.part_values;
  projection.rows = args.rows;
  projection.angles = args.angles;
  projection.queries = args.queries;
  launch_early("project", project_kernel, Grid{blocks, args.tokens},
               threads_of(projection.product[0]), stream, projection);
}

}  // namespace fbi::kernels::cuda
