// What fbi-run computes for one token of a 7B model beside products with signs (gemv_bench), and
// those for the tokens of a prompt.
#include <string>

#include "bench/kernels_bench.h"
#include "fbi/kernels/decode.h"
#include "fbi/kernels/gemv.h"

namespace fbi::bench {
namespace {

using namespace kernels;  // NOLINT

constexpr std::int64_t kWidth = 4096, kInner = 11008, kHeads = 32, kHead = 128, kPositions = 2048;
constexpr MatrixShape kHeadShape = {32000, kWidth};

void norm(benchmark::State& state) {
  const auto x = normals(kWidth, 1), weight = normals(kWidth, 2);
  std::vector<float> out(kWidth);
  measure_in_cache(state, 12 * kWidth,
                   [&] { rms_norm(x.data(), weight.data(), kWidth, 1e-5, out.data()); });
}

/// The gate becomes smaller from call to call; the work stays.
void gate(benchmark::State& state) {
  auto values = normals(kInner, 1);
  const std::vector<float> up(kInner, 2);
  measure_in_cache(state, 12 * kInner, [&] { silu_product(values.data(), up.data(), kInner); });
}

void store(benchmark::State& state, CacheType type) {
  const auto x = normals(kHeads * kHead, 1);
  const std::int64_t bytes = kHead * size_of(type);
  std::vector<std::byte> out(static_cast<std::size_t>(kHeads * bytes));
  measure_in_cache(state, 4 * kHeads * kHead + kHeads * bytes, [&] {
    for (std::int64_t h = 0; h < kHeads; ++h)
      store_cache(&x[h * kHead], kHead, type, &out[h * bytes]);
  });
}

/// All heads of a layer: 2 x 16 MB in fp16, from memory where the last cache is not larger.
void attention(benchmark::State& state, CacheType type) {
  const std::int64_t bytes = kPositions * kHead * size_of(type);
  const std::vector<std::byte> keys(static_cast<std::size_t>(kHeads * bytes), std::byte{0x2A}),
      values = keys;
  const auto query = normals(kHead, 1);
  measure(state, 2 * kHeads * bytes, [&](ParallelFor& parallel) {
    parallel.run(0, kHeads, 1, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> scores(static_cast<std::size_t>(attend_scratch(1, kPositions)));
      for (std::int64_t h = begin; h < end; ++h) {
        auto out = query;
        attend({.query = out.data(),
                .keys = &keys[h * bytes],
                .values = &values[h * bytes],
                .type = type,
                .positions = kPositions,
                .head_dim = kHead,
                .scores = scores.data()});
      }
    });
  });
}

DenseLinear head_of(Storage storage) {
  DenseLinear w(kHeadShape, storage);
  const auto row = normals(kWidth, 1);
  for (std::int64_t o = 0; o < kHeadShape.rows; ++o) w.set_row(o, row);
  return w;
}

void head(benchmark::State& state, Storage storage) {
  const DenseLinear w = head_of(storage);
  const auto x = normals(kWidth, 2);
  std::vector<float> y(kHeadShape.rows);
  measure(state, static_cast<std::int64_t>(w.weight_bytes()),
          [&](ParallelFor& parallel) { multiply(w, x.data(), 1, y.data(), parallel); });
}

/// Of several texts, or of a text that is scored.
void head_of_tokens(benchmark::State& state, std::int64_t tokens, Storage storage) {
  const DenseLinear w = head_of(storage);
  const auto x = normals(tokens * kWidth, 2);
  std::vector<float> y(tokens * kHeadShape.rows);
  measure_products(
      state, 2.0 * static_cast<double>(tokens * kHeadShape.rows * kHeadShape.columns),
      [&](ParallelFor& parallel) { multiply(w, x.data(), tokens, y.data(), parallel); });
}

/// A matrix of the 1.3B model's feed-forward.
void prompt(benchmark::State& state, std::int64_t tokens, Activations activations) {
  constexpr MatrixShape kShape = {5632, 2048};
  const std::vector<std::uint8_t> bits(kShape.rows * row_bytes(kShape.columns), 0x5A);
  const auto scales = normals(kShape.columns, 1), x = normals(tokens * kShape.columns, 2);
  SerialFor serial;
  const BinaryLinear w(bits.data(), scales, scales, ScaleStrides::per_column(), kShape, activations,
                       serial);
  std::vector<float> y(tokens * kShape.rows);
  measure_products(
      state, 2.0 * static_cast<double>(tokens * kShape.rows * kShape.columns),
      [&](ParallelFor& parallel) { multiply(w, x.data(), tokens, y.data(), parallel); });
}

}  // namespace

void register_decode_kernels() {
  add_serial("decode/rms_norm", norm);
  add_serial("decode/silu_product", gate);
  add_serial("decode/store_cache/fp32", [](auto& state) { store(state, CacheType::kFp32); });
  add_serial("decode/store_cache/fp16", [](auto& state) { store(state, CacheType::kFp16); });
  add("decode/attend/fp32", [](auto& state) { attention(state, CacheType::kFp32); });
  add("decode/attend/fp16", [](auto& state) { attention(state, CacheType::kFp16); });
  add("decode/head/fp32", [](auto& state) { head(state, Storage::kFp32); });
  add("decode/head/fp16", [](auto& state) { head(state, Storage::kFp16); });
  add("decode/head/int8", [](auto& state) { head(state, Storage::kInt8); });
  for (const std::int64_t tokens : {16, 512}) {
    const std::string suffix = std::to_string(tokens) + "_tokens";
    add(("decode/head/fp16/" + suffix).c_str(),
        [tokens](auto& state) { head_of_tokens(state, tokens, Storage::kFp16); });
    add(("multiply/exact/" + suffix).c_str(),
        [tokens](auto& state) { prompt(state, tokens, Activations::kExact); });
    add(("multiply/int8/" + suffix).c_str(),
        [tokens](auto& state) { prompt(state, tokens, Activations::kInt8); });
  }
}

}  // namespace fbi::bench
