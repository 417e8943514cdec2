// One product with 4096 x 4096 signs, in cache, one thread: our kernels beside the arithmetic of
// llama.cpp's Q1_0 weights with Q8_0 activations, written here from the formats' description
// (AVX2); one with 128 MB of signs, which come from memory, beside the speed of plain reading; and
// products of 64 tokens, side by side in the lanes of tables, beside 16 times four tokens. Columns:
// weights per second of the fastest call, its factor over Q1_0 (side by side: over four at a time)
// in the same run, the part of it that building tables takes, its share of what the processor's
// look-ups on registers alone would reach (side by side: additions from the first-level cache), and
// its share of plain reading. All by the thread's own clock, so that a busy machine counts less.
#include <benchmark/benchmark.h>
#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "bench/arithmetic_peak.h"
#include "fbi/core/random.h"
#include "fbi/kernels/dispatch.h"
#include "fbi/kernels/gemv.h"

namespace fbi::kernels {
namespace {

constexpr MatrixShape kShape = {4096, 4096};
constexpr double kWeights = static_cast<double>(kShape.rows * kShape.columns);

std::vector<float> normals(std::int64_t count, std::uint64_t stream) {
  std::vector<float> values(static_cast<std::size_t>(count));
  fill_normal(values, 1, stream, 0, 0, 1);
  return values;
}

/// 128 signs and their magnitude; 32 rounded activations and their scale.
struct SignBlock {
  _Float16 scale;
  std::uint8_t bits[16];
};
struct ByteBlock {
  _Float16 scale;
  std::int8_t values[32];
};

std::vector<ByteBlock> rounded(const std::vector<float>& x) {
  std::vector<ByteBlock> blocks(x.size() / 32);
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    float largest = 0;
    for (int i = 0; i < 32; ++i) largest = std::max(largest, std::abs(x[32 * b + i]));
    blocks[b].scale = static_cast<_Float16>(largest / 127);
    for (int i = 0; i < 32; ++i) {
      blocks[b].values[i] = static_cast<std::int8_t>(std::lrint(x[32 * b + i] * 127 / largest));
    }
  }
  return blocks;
}

__attribute__((target("avx2,fma,f16c"))) float block_dot(const SignBlock* w, const ByteBlock* x,
                                                         std::int64_t blocks) {
  const __m256i ones8 = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1),
                zero = _mm256_setzero_si256();
  const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2,
                                          2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
  const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ull));
  __m256 sum = _mm256_setzero_ps();
  for (std::int64_t b = 0; b < blocks; ++b) {
    __m256 part = _mm256_setzero_ps();
    for (int k = 0; k < 4; ++k) {
      int word;
      std::memcpy(&word, w[b].bits + 4 * k, sizeof word);
      const ByteBlock& input = x[4 * b + k];
      const __m256i bits =
          _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(word), spread), bit);
      const __m256i minus = _mm256_cmpeq_epi8(bits, zero);
      const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(input.values));
      const __m256i with_sign = _mm256_sub_epi8(_mm256_xor_si256(values, minus), minus);
      const __m256i whole = _mm256_madd_epi16(_mm256_maddubs_epi16(ones8, with_sign), ones16);
      part = _mm256_fmadd_ps(_mm256_set1_ps(static_cast<float>(input.scale)),
                             _mm256_cvtepi32_ps(whole), part);
    }
    sum = _mm256_fmadd_ps(_mm256_set1_ps(static_cast<float>(w[b].scale)), part, sum);
  }
  float lanes[8];
  _mm256_storeu_ps(lanes, sum);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3] + lanes[4] + lanes[5] + lanes[6] + lanes[7];
}

double thread_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// Seconds of the fastest of several calls.
template <class Call>
double fastest(const Call& call, int calls = 20) {
  double best = 1e9;
  for (int k = 0; k < calls; ++k) {
    const double start = thread_seconds();
    call();
    best = std::min(best, thread_seconds() - start);
  }
  return best;
}

struct BlockProduct {
  BlockProduct()
      : weights(static_cast<std::size_t>(kWeights / 128)),
        x(normals(kShape.columns, 1)),
        y(kShape.rows) {
    RandomStream random(1, 2);
    for (SignBlock& block : weights) {
      block.scale = static_cast<_Float16>(0.5f);
      for (auto& bits : block.bits) bits = static_cast<std::uint8_t>(random.next_u32());
    }
  }
  void run() {
    const auto input = rounded(x);
    const std::int64_t blocks = kShape.columns / 128;
    for (std::int64_t o = 0; o < kShape.rows; ++o)
      y[o] = block_dot(weights.data() + o * blocks, input.data(), blocks);
    benchmark::DoNotOptimize(y.data());
  }
  std::vector<SignBlock> weights;
  std::vector<float> x, y;
};

double block_seconds() {
  static const double seconds = [] {
    BlockProduct product;
    return fastest([&] { product.run(); });
  }();
  return seconds;
}

FBI_ROUNDS_ON_REGISTERS(look_up_bytes, "avx2", __m256i, _mm256_set1_epi8(1),
                        _mm256_shuffle_epi8(start, value))
FBI_ROUNDS_ON_REGISTERS(look_up_floats, "avx512f", __m512i, _mm512_set1_epi32(1),
                        _mm512_permutex2var_epi32(start, value, start))
FBI_ROUNDS_ON_REGISTERS(look_up_words, "avx512f,avx512bw", __m512i, _mm512_set1_epi16(1),
                        _mm512_permutexvar_epi16(value, start))

/// Weights per second if a kernel did nothing but its look-ups; 0 where it does none. AVX2: 32 rows
/// by 4 inputs in 4 (exact) or 2 planes; AVX-512: 16 or 32 rows by 5 inputs.
double look_up_peak(Level level, Activations activations) {
  const bool exact = activations == Activations::kExact;
  const bool avx512 = level == Level::kAvx512;
  if (!avx512 && level != Level::kAvx2) return 0;
  const auto look_up = !avx512 ? look_up_bytes : exact ? look_up_floats : look_up_words;
  const int signs = avx512 ? (exact ? 80 : 160) : (exact ? 32 : 64);
  constexpr std::int64_t kRounds = 1 << 18;
  return static_cast<double>(kRounds * bench::kChains * signs) / fastest([&] { look_up(kRounds); });
}

void report(benchmark::State& state, double best) {
  state.counters["Gweights/s"] = kWeights / best / 1e9;
  state.counters["factor"] = block_seconds() / best;
}

void q1_0(benchmark::State& state) {
  BlockProduct product;
  for (auto _ : state) product.run();
  report(state, fastest([&] { product.run(); }));
}

struct SignMatrix {
  SignMatrix(MatrixShape shape, Activations activations)
      : x(normals(shape.columns, 6)), y(static_cast<std::size_t>(shape.rows)) {
    std::vector<std::uint8_t> bits(static_cast<std::size_t>(shape.rows * row_bytes(shape.columns)));
    RandomStream random(1, 3);
    for (auto& byte : bits) byte = static_cast<std::uint8_t>(random.next_u32());
    SerialFor serial;
    w = BinaryLinear(bits.data(), normals(shape.columns, 4), normals(shape.columns, 5),
                     ScaleStrides::per_column(), shape, activations, serial);
    table = AlignedMemory(w.table_bytes());
  }
  void prepare() { w.prepare(x.data(), 0, w.table_parts(), false, table.data()); }
  void run() {
    prepare();
    w.multiply(0, w.row_blocks(), table.data(), 1, y.data(), w.shape().rows);
    benchmark::DoNotOptimize(y.data());
  }
  BinaryLinear w;
  AlignedMemory table;
  std::vector<float> x, y;
};

void in_cache(benchmark::State& state, Level level, Activations activations) {
  force_level(level);
  SignMatrix matrix(kShape, activations);
  for (auto _ : state) matrix.run();
  const double seconds = fastest([&] { matrix.run(); });
  report(state, seconds);
  state.counters["tables"] = fastest([&] { matrix.prepare(); }) / seconds;
  if (const double peak = look_up_peak(level, activations); peak > 0)
    state.counters["of look-ups"] = kWeights / seconds / peak;
  force_level(std::nullopt);
}

/// Adds up 16 KB, which stay in the first-level cache, `passes` times.
constexpr std::int64_t kCachedBytes = 16384;
#define FBI_ADD_FROM_CACHE(name, instruction_set, Vector)                            \
  __attribute__((target(instruction_set))) void name(const std::byte* bytes,         \
                                                     std::int64_t passes) {          \
    Vector sums[8] = {};                                                             \
    for (std::int64_t at = 0; at < passes * kCachedBytes; at += sizeof sums) {       \
      const auto* from = reinterpret_cast<const Vector*>(bytes + at % kCachedBytes); \
      _Pragma("GCC unroll 8") for (int k = 0; k < 8; ++k) {                          \
        sums[k] += from[k];                                                          \
        asm volatile("" : "+v"(sums[k])); /* or the loop would be taken apart */     \
      }                                                                              \
    }                                                                                \
  }
FBI_ADD_FROM_CACHE(add_from_cache_avx2, "avx2", __m256i)
FBI_ADD_FROM_CACHE(add_from_cache_avx512, "avx512f", __m512i)

/// Weights per second if products side by side did nothing but their additions: five inputs for as
/// many tokens as a cache line holds.
double addition_peak(Level level, Activations activations) {
  AlignedMemory memory(kCachedBytes);
  std::memset(memory.data(), 0, kCachedBytes);
  const auto add = level == Level::kAvx512 ? add_from_cache_avx512 : add_from_cache_avx2;
  constexpr std::int64_t kPasses = 1 << 12, kLines = kPasses * kCachedBytes / 64;
  const int tokens = activations == Activations::kExact ? 16 : 32;
  return static_cast<double>(kLines * 5 * tokens) / fastest([&] { add(memory.data(), kPasses); });
}

void side_by_side(benchmark::State& state, Level level, Activations activations) {
  force_level(level);
  constexpr std::int64_t kTokens = 64;
  SignMatrix matrix(kShape, activations);
  const auto x = normals(kTokens * kShape.columns, 7);
  std::vector<float> y(static_cast<std::size_t>(kTokens * kShape.rows));
  SerialFor serial;
  const auto multiply_all = [&](std::int64_t at_once) {
    for (std::int64_t t = 0; t < kTokens; t += at_once) {
      multiply(matrix.w, x.data() + t * kShape.columns, at_once, y.data() + t * kShape.rows,
               serial);
    }
    benchmark::DoNotOptimize(y.data());
  };
  for (auto _ : state) multiply_all(kTokens);
  const double seconds = fastest([&] { multiply_all(kTokens); });
  const double weights = kTokens * kWeights;
  state.counters["Gweights/s"] = weights / seconds / 1e9;
  state.counters["factor"] = fastest([&] { multiply_all(4); }) / seconds;
  state.counters["of additions"] = weights / seconds / addition_peak(level, activations);
  force_level(std::nullopt);
}

/// The fastest of several plain readings of memory of that size, bytes per second.
double reading_speed(std::size_t bytes) {
  AlignedMemory memory(bytes);
  std::memset(memory.data(), 1, bytes);
  const auto* words = memory.as<std::uint64_t>();
  return static_cast<double>(bytes) / fastest(
                                          [&] {
                                            std::uint64_t seen[8] = {};
                                            for (std::size_t k = 0; k + 8 <= bytes / 8; k += 8) {
                                              for (int j = 0; j < 8; ++j) seen[j] |= words[k + j];
                                            }
                                            benchmark::DoNotOptimize(seen);
                                          },
                                          8);
}

void from_memory(benchmark::State& state, Activations activations) {
  constexpr MatrixShape shape = {512 * 1024, 2048};
  SignMatrix matrix(shape, activations);
  for (auto _ : state) matrix.run();
  const double seconds = fastest([&] { matrix.run(); }, 8);
  const auto bytes = static_cast<double>(matrix.w.weight_bytes());
  state.counters["Gweights/s"] = static_cast<double>(shape.rows * shape.columns) / seconds / 1e9;
  state.counters["GB/s"] = bytes / seconds / 1e9;
  state.counters["of reading"] = bytes / seconds / reading_speed(matrix.w.weight_bytes());
}

}  // namespace
}  // namespace fbi::kernels

int main(int argc, char** argv) {
  using namespace fbi::kernels;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RegisterBenchmark("q1_0 x q8_0", q1_0)->Unit(benchmark::kMicrosecond);
  for (const DispatchRow& row : dispatch_rows()) {
    if (!row.available() || row.level == Level::kRef) continue;
    const std::string name(level_name(row.level));
    benchmark::RegisterBenchmark(("exact/" + name).c_str(), in_cache, row.level,
                                 Activations::kExact)
        ->Unit(benchmark::kMicrosecond);
    benchmark::RegisterBenchmark(("int8/" + name).c_str(), in_cache, row.level, Activations::kInt8)
        ->Unit(benchmark::kMicrosecond);
    if (row.level != Level::kAvx512 && row.level != Level::kAvx2) continue;
    benchmark::RegisterBenchmark(("exact/side by side/" + name).c_str(), side_by_side, row.level,
                                 Activations::kExact)
        ->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark(("int8/side by side/" + name).c_str(), side_by_side, row.level,
                                 Activations::kInt8)
        ->Unit(benchmark::kMillisecond);
  }
  benchmark::RegisterBenchmark("exact/from memory", from_memory, Activations::kExact)
      ->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("int8/from memory", from_memory, Activations::kInt8)
      ->Unit(benchmark::kMillisecond);
  benchmark::RunSpecifiedBenchmarks();
}
