// Distillation loss with its gradient on one thread: ours beside LibTorch's softmax and cross
// entropy, in one run. Both read student and teacher logits [2048, 32000] and give the mean loss
// and the gradient of the student's logits.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <benchmark/benchmark.h>
#include <torch/csrc/autograd/autograd.h>

#include <vector>

#include "fbi/kernels/distill_loss.h"

namespace fbi::kernels {
namespace {

constexpr std::int64_t kTokens = 2048, kVocab = 32000;

void report_tokens(benchmark::State& state) {
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(kTokens * state.iterations()),
                                                  benchmark::Counter::kIsRate);
}

void ours(benchmark::State& state) {
  const at::Tensor fresh = at::randn({kTokens, kVocab}), teacher = at::randn({kTokens, kVocab});
  at::Tensor logits = at::empty_like(fresh);
  std::vector<float> loss(kTokens);
  SerialFor serial;
  for (auto _ : state) {
    state.PauseTiming();
    logits.copy_(fresh);
    state.ResumeTiming();
    distill_loss({.logits = logits.data_ptr<float>(),
                  .teacher_logits = teacher.data_ptr<float>(),
                  .tokens = kTokens,
                  .vocab_size = kVocab,
                  .grad_scale = 1.0 / kTokens,
                  .loss_distill = loss.data()},
                 serial);
  }
  report_tokens(state);
}

void libtorch(benchmark::State& state) {
  const at::Tensor logits = at::randn({kTokens, kVocab}).requires_grad_();
  const at::Tensor teacher = at::randn({kTokens, kVocab});
  for (auto _ : state) {
    const at::Tensor loss = at::cross_entropy_loss(logits, at::softmax(teacher, 1));
    benchmark::DoNotOptimize(torch::autograd::grad({loss}, {logits}));
  }
  report_tokens(state);
}

BENCHMARK(ours)->Unit(benchmark::kMillisecond);
BENCHMARK(libtorch)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace fbi::kernels

int main(int argc, char** argv) {
  at::set_num_threads(1);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
}
