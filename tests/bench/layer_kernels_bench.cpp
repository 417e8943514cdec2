// What a training step computes between its matrix products, of 2,048 tokens of the 7B model, and
// the loss.
#include "bench/kernels_bench.h"
#include "fbi/kernels/distill_loss.h"
#include "fbi/kernels/layer.h"

namespace fbi::bench {
namespace {

using namespace kernels;  // NOLINT

constexpr std::int64_t kTokens = 2048, kWidth = 4096, kInner = 11008, kHeads = 32, kHead = 128;
constexpr std::int64_t kLossTokens = 256, kVocab = 32000;

void norm(benchmark::State& state) {
  const auto x = normals(kTokens * kWidth, 1), weight = normals(kWidth, 2);
  std::vector<float> out(kTokens * kWidth), inverse_rms(kTokens);
  measure(state, 8 * kTokens * kWidth, [&](ParallelFor& parallel) {
    rms_norm({x.data(), weight.data(), kTokens, kWidth}, 1e-5, out.data(), inverse_rms.data(),
             parallel);
  });
}

void norm_backward(benchmark::State& state) {
  const auto x = normals(kTokens * kWidth, 1), weight = normals(kWidth, 2),
             dout = normals(kTokens * kWidth, 3);
  const std::vector<float> inverse_rms(kTokens, 1);
  std::vector<float> dx(kTokens * kWidth), dweight(kWidth);
  measure(state, 12 * kTokens * kWidth, [&](ParallelFor& parallel) {
    rms_norm_backward({x.data(), weight.data(), kTokens, kWidth}, inverse_rms.data(), dout.data(),
                      dx.data(), dweight.data(), parallel);
  });
}

void silu(benchmark::State& state) {
  const auto gate = normals(kTokens * kInner, 1), up = normals(kTokens * kInner, 2);
  std::vector<float> out(kTokens * kInner);
  measure(state, 12 * kTokens * kInner, [&](ParallelFor& parallel) {
    silu_product(gate.data(), up.data(), kTokens * kInner, out.data(), parallel);
  });
}

void silu_backward(benchmark::State& state) {
  const auto gate = normals(kTokens * kInner, 1), up = normals(kTokens * kInner, 2),
             dout = normals(kTokens * kInner, 3);
  std::vector<float> dgate(kTokens * kInner), dup(kTokens * kInner);
  measure(state, 20 * kTokens * kInner, [&](ParallelFor& parallel) {
    silu_product_backward(dout.data(), gate.data(), up.data(), kTokens * kInner, dgate.data(),
                          dup.data(), parallel);
  });
}

void rotate(benchmark::State& state) {
  const auto x = normals(kTokens * kWidth, 1), cos = normals(kTokens * kHead / 2, 2), sin = cos;
  std::vector<float> out(kTokens * kWidth);
  const RotaryInput input = {.x = x.data(),
                             .batch_stride = kTokens * kWidth,
                             .position_stride = kWidth,
                             .head_stride = kHead,
                             .batch = 1,
                             .positions = kTokens,
                             .heads = kHeads,
                             .head_dim = kHead,
                             .cos = cos.data(),
                             .sin = sin.data()};
  measure(state, 8 * kTokens * kWidth,
          [&](ParallelFor& parallel) { rotary(input, false, out.data(), parallel); });
}

void loss(benchmark::State& state, double next_token, double distill, double temperature) {
  const auto teacher = normals(kLossTokens * kVocab, 1), fresh = normals(kLossTokens * kVocab, 2);
  auto logits = fresh;
  const std::vector<std::int32_t> targets(kLossTokens, 17);
  std::vector<float> loss_next(kLossTokens), loss_distill(kLossTokens);
  // The gradient replaces the logits and is then taken as logits: values differ, work does not.
  measure(state, (distill != 0 ? 12 : 8) * kLossTokens * kVocab, [&](ParallelFor& parallel) {
    distill_loss({.logits = logits.data(),
                  .teacher_logits = teacher.data(),
                  .targets = targets.data(),
                  .tokens = kLossTokens,
                  .vocab_size = kVocab,
                  .next_token = next_token,
                  .distill = distill,
                  .temperature = temperature,
                  .grad_scale = 1,
                  .loss_next = loss_next.data(),
                  .loss_distill = loss_distill.data()},
                 parallel);
  });
  state.counters["tokens/s"] = benchmark::Counter(
      static_cast<double>(kLossTokens * state.iterations()), benchmark::Counter::kIsRate);
}

void nll(benchmark::State& state) {
  const auto logits = normals(kLossTokens * kVocab, 1);
  const std::vector<std::int32_t> targets(kLossTokens, 17);
  std::vector<float> out(kLossTokens);
  measure(state, 4 * kLossTokens * kVocab, [&](ParallelFor& parallel) {
    next_token_nll(logits.data(), targets.data(), kLossTokens, kVocab, out.data(), parallel);
  });
}

}  // namespace

void register_layer_kernels() {
  add("rms_norm", norm);
  add("rms_norm_backward", norm_backward);
  add("silu_product", silu);
  add("silu_product_backward", silu_backward);
  add("rotary", rotate);
  add("distill_loss/next_token", [](auto& state) { loss(state, 1, 0, 1); });
  add("distill_loss/distill", [](auto& state) { loss(state, 0, 1, 1); });
  add("distill_loss/mixed", [](auto& state) { loss(state, 0.5, 0.5, 1); });
  add("distill_loss/mixed_temperature_2", [](auto& state) { loss(state, 0.5, 0.5, 2); });
  add("next_token_nll", nll);
}

}  // namespace fbi::bench
