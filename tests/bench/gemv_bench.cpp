// One product with 4096 x 4096 signs, in cache, one thread: our kernels beside the arithmetic of
// llama.cpp's Q1_0 weights with Q8_0 activations, written here from the formats' description
// (AVX2). The columns are weights per second and the factor over that arithmetic in the same run.
#include <benchmark/benchmark.h>
#include <immintrin.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

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

/// Seconds of the fastest of several calls.
template <class Call>
double fastest(const Call& call) {
  double best = 1e9;
  for (int k = 0; k < 20; ++k) {
    const auto start = std::chrono::steady_clock::now();
    call();
    best = std::min(
        best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
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

void report(benchmark::State& state, double best) {
  state.counters["Gweights/s"] = kWeights / best / 1e9;
  state.counters["factor"] = block_seconds() / best;
}

void q1_0(benchmark::State& state) {
  BlockProduct product;
  for (auto _ : state) product.run();
  report(state, fastest([&] { product.run(); }));
}

void ours(benchmark::State& state, Level level, Activations activations) {
  force_level(level);
  std::vector<std::uint8_t> bits(static_cast<std::size_t>(kShape.rows * row_bytes(kShape.columns)));
  RandomStream random(1, 3);
  for (auto& byte : bits) byte = static_cast<std::uint8_t>(random.next_u32());
  SerialFor serial;
  const auto alpha = normals(kShape.columns, 4), beta = normals(kShape.columns, 5),
             x = normals(kShape.columns, 6);
  const BinaryLinear w(bits.data(), alpha, beta, ScaleStrides::per_column(), kShape, activations,
                       serial);
  std::vector<float> y(static_cast<std::size_t>(kShape.rows));
  AlignedMemory table(w.table_bytes());
  const auto product = [&] {
    w.prepare(x.data(), 0, w.table_parts(), table.data());
    w.multiply(0, w.row_blocks(), table.data(), 1, y.data(), kShape.rows);
    benchmark::DoNotOptimize(y.data());
  };
  for (auto _ : state) product();
  report(state, fastest(product));
  state.counters["table share"] =
      fastest([&] { w.prepare(x.data(), 0, w.table_parts(), table.data()); }) / fastest(product);
  force_level(std::nullopt);
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
    benchmark::RegisterBenchmark(("exact/" + name).c_str(), ours, row.level, Activations::kExact)
        ->Unit(benchmark::kMicrosecond);
    benchmark::RegisterBenchmark(("int8/" + name).c_str(), ours, row.level, Activations::kInt8)
        ->Unit(benchmark::kMicrosecond);
  }
  benchmark::RunSpecifiedBenchmarks();
}
