// Each kernel on one matrix of the 7B model, with 1 and 2 threads; FBI_KERNEL chooses the level.
// The columns are memory traffic per second and its share of what copying reaches in the same run.
#include <benchmark/benchmark.h>

#include <string>

#include "bench/copy_bandwidth.h"
#include "fbi/core/random.h"
#include "fbi/kernels/adamw.h"
#include "fbi/kernels/convert.h"
#include "fbi/kernels/dispatch.h"
#include "fbi/kernels/distill_loss.h"

namespace fbi::kernels {
namespace {

constexpr MatrixShape kShape = {11008, 4096};
constexpr std::int64_t kElements = kShape.rows * kShape.columns;
constexpr std::int64_t kBitBytes = kShape.rows * row_bytes(kShape.columns);

std::vector<float> normals(std::int64_t count, std::uint64_t stream) {
  std::vector<float> values(static_cast<std::size_t>(count));
  fill_normal({values.data(), std::size_t{1} << 12}, 1, stream, 0, 0, 1);
  for (std::size_t i = 1 << 12; i < values.size(); ++i) values[i] = values[i - (1 << 12)];
  return values;
}

/// Calls kernel(parallel) repeatedly; bytes is its least possible memory traffic.
template <class Kernel>
void measure(benchmark::State& state, std::int64_t bytes, const Kernel& kernel) {
  ThreadPool parallel(static_cast<int>(state.range(0)));
  bench::copy_bandwidth(parallel);
  for (auto _ : state) kernel(parallel);
  bench::report_traffic(state, parallel, static_cast<double>(bytes));
}

void pack(benchmark::State& state) {
  const auto latent = normals(kElements, 1);
  std::vector<std::uint8_t> bits(kBitBytes);
  measure(state, 4 * kElements + kBitBytes,
          [&](ParallelFor& parallel) { pack_signs(latent.data(), kShape, bits.data(), parallel); });
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

void narrow(benchmark::State& state) {
  const auto x = normals(kElements, 1);
  std::vector<std::uint16_t> out(kElements);
  measure(state, 6 * kElements,
          [&](ParallelFor& parallel) { to_bfloat16(x.data(), kElements, out.data(), parallel); });
}

void loss(benchmark::State& state, double next_token, double distill, double temperature) {
  constexpr std::int64_t kTokens = 256, kVocab = 32000;
  const auto teacher = normals(kTokens * kVocab, 1), fresh = normals(kTokens * kVocab, 2);
  auto logits = fresh;
  const std::vector<std::int32_t> targets(kTokens, 17);
  std::vector<float> loss_next(kTokens), loss_distill(kTokens);
  // The gradient replaces the logits and is then taken as logits: values differ, work does not.
  measure(state, (distill != 0 ? 12 : 8) * kTokens * kVocab, [&](ParallelFor& parallel) {
    distill_loss({.logits = logits.data(),
                  .teacher_logits = teacher.data(),
                  .targets = targets.data(),
                  .tokens = kTokens,
                  .vocab_size = kVocab,
                  .next_token = next_token,
                  .distill = distill,
                  .temperature = temperature,
                  .grad_scale = 1,
                  .loss_next = loss_next.data(),
                  .loss_distill = loss_distill.data()},
                 parallel);
  });
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(kTokens * state.iterations()),
                                                  benchmark::Counter::kIsRate);
}

void register_all() {
  const auto add = [](const char* name, auto function) {
    benchmark::RegisterBenchmark(name, function)
        ->Arg(1)
        ->Arg(2)
        ->ArgName("threads")
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  };
  add("pack_signs", pack);
  add("effective_weight", effective_fp32);
  add("effective_weight_bf16", effective_bf16);
  add("scale_gradients/column", [](auto& state) { gradients(state, ScaleStrides::per_column()); });
  add("scale_gradients/row", [](auto& state) { gradients(state, ScaleStrides::per_row()); });
  add("sum_of_squares", norm);
  add("adamw", dense_update);
  add("adamw_latent", latent_update);
  add("to_bfloat16", narrow);
  add("distill_loss/next_token", [](auto& state) { loss(state, 1, 0, 1); });
  add("distill_loss/distill", [](auto& state) { loss(state, 0, 1, 1); });
  add("distill_loss/mixed", [](auto& state) { loss(state, 0.5, 0.5, 1); });
  add("distill_loss/mixed_temperature_2", [](auto& state) { loss(state, 0.5, 0.5, 2); });
}

}  // namespace
}  // namespace fbi::kernels

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::AddCustomContext("kernel level",
                              std::string(fbi::kernels::level_name(fbi::kernels::chosen_level())));
  fbi::kernels::register_all();
  benchmark::RunSpecifiedBenchmarks();
}
