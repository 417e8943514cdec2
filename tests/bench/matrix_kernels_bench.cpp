// Over a binarized matrix, and what updates one.
#include "bench/kernels_bench.h"
#include "fbi/kernels/adamw.h"

namespace fbi::bench {
namespace {

using namespace kernels;  // NOLINT

constexpr MatrixShape kShape = {11008, 4096};
constexpr std::int64_t kElements = kShape.rows * kShape.columns;
constexpr std::int64_t kBitBytes = kShape.rows * row_bytes(kShape.columns);

void pack(benchmark::State& state) {
  const auto latent = normals(kElements, 1);
  std::vector<std::uint8_t> bits(kBitBytes);
  measure(state, 4 * kElements + kBitBytes,
          [&](ParallelFor& parallel) { pack_signs(latent.data(), kShape, bits.data(), parallel); });
}

void transpose(benchmark::State& state) {
  const std::vector<std::uint8_t> bits(kBitBytes, 0x5A);
  std::vector<std::uint8_t> out(kBitBytes);
  measure(state, 2 * kBitBytes, [&](ParallelFor& parallel) {
    transpose_signs(bits.data(), kShape, out.data(), parallel);
  });
}

/// Reads twice: alpha needs beta.
void scales(benchmark::State& state) {
  const auto latent = normals(kElements, 1);
  std::vector<float> alpha(kShape.columns), beta(kShape.columns);
  measure(state, 8 * kElements, [&](ParallelFor& parallel) {
    initial_scales(latent.data(), ScaleStrides::per_column(), kShape, alpha.data(), beta.data(),
                   parallel);
  });
}

void effective_fp32(benchmark::State& state) {
  const auto alpha = normals(kShape.columns, 1), beta = normals(kShape.columns, 2);
  const std::vector<std::uint8_t> bits(kBitBytes, 0x5A);
  std::vector<float> out(kElements);
  measure(state, 4 * kElements + kBitBytes, [&](ParallelFor& parallel) {
    effective_weight(bits.data(), alpha.data(), beta.data(), ScaleStrides::per_column(), kShape,
                     out.data(), parallel);
  });
}

void effective_bf16(benchmark::State& state) {
  const auto alpha = normals(kShape.columns, 1), beta = normals(kShape.columns, 2);
  const std::vector<std::uint8_t> bits(kBitBytes, 0x5A);
  std::vector<std::uint16_t> out(kElements);
  measure(state, 2 * kElements + kBitBytes, [&](ParallelFor& parallel) {
    effective_weight_bf16(bits.data(), alpha.data(), beta.data(), ScaleStrides::per_column(),
                          kShape, out.data(), parallel);
  });
}

void gradients(benchmark::State& state, ScaleStrides strides) {
  const auto raw_grad = normals(kElements, 1), alpha = normals(kShape.rows, 2);
  const std::vector<std::uint8_t> bits(kBitBytes, 0x5A);
  std::vector<float> dalpha(kShape.rows), dbeta(kShape.rows);
  measure(state, 4 * kElements + kBitBytes, [&](ParallelFor& parallel) {
    benchmark::DoNotOptimize(scale_gradients(raw_grad.data(), bits.data(), alpha.data(), strides,
                                             kShape, dalpha.data(), dbeta.data(), parallel));
  });
}

void norm(benchmark::State& state) {
  const auto x = normals(kElements, 1);
  measure(state, 4 * kElements, [&](ParallelFor& parallel) {
    benchmark::DoNotOptimize(sum_of_squares(x.data(), kElements, parallel));
  });
}

constexpr AdamWStep kStep = {.lr = 1e-6, .weight_decay = 0.1, .bias_correction1 = 0.5};

void dense_update(benchmark::State& state) {
  auto value = normals(kElements, 1), moment1 = value, moment2 = value;
  for (float& v : moment2) v *= v;
  const auto grad = normals(kElements, 2);
  measure(state, 28 * kElements, [&](ParallelFor& parallel) {
    adamw(value.data(), moment1.data(), moment2.data(), grad.data(), kElements, kStep, parallel);
  });
}

void latent_update(benchmark::State& state) {
  auto latent = normals(kElements, 1), moment1 = latent, moment2 = latent;
  for (float& v : moment2) v *= v;
  const auto raw_grad = normals(kElements, 2), alpha = normals(kShape.columns, 3);
  std::vector<std::uint8_t> bits(kBitBytes);
  measure(state, 28 * kElements + kBitBytes, [&](ParallelFor& parallel) {
    benchmark::DoNotOptimize(adamw_latent(latent.data(), moment1.data(), moment2.data(),
                                          raw_grad.data(), alpha.data(), ScaleStrides::per_column(),
                                          kShape, bits.data(), kStep, parallel));
  });
}

}  // namespace

void register_matrix_kernels() {
  add("pack_signs", pack);
  add("transpose_signs", transpose);
  add("initial_scales", scales);
  add("effective_weight", effective_fp32);
  add("effective_weight_bf16", effective_bf16);
  add("scale_gradients/column", [](auto& state) { gradients(state, ScaleStrides::per_column()); });
  add("scale_gradients/row", [](auto& state) { gradients(state, ScaleStrides::per_row()); });
  add("sum_of_squares", norm);
  add("adamw", dense_update);
  add("adamw_latent", latent_update);
}

}  // namespace fbi::bench
