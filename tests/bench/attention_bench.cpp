// Causal attention of whole sequences in fp32, one thread, forward and backward: ours and
// LibTorch's, which training took before. Columns: operations per second, counting the scores that
// a position sees and no others, and their share of the measured peak.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <torch/csrc/autograd/autograd.h>

#include <string>

#include "bench/arithmetic_peak.h"
#include "bench/run_benchmarks.h"
#include "fbi/core/system.h"
#include "fbi/ops/slot_ops.h"

namespace fbi::bench {
namespace {

struct Case {
  std::int64_t batch, heads, positions, head_dim;
};
constexpr Case kCases[] = {{8, 4, 256, 64}, {2, 12, 512, 64}, {1, 12, 2048, 64}, {1, 4, 512, 128}};

using Attention = at::Tensor (*)(const at::Tensor&, const at::Tensor&, const at::Tensor&);

at::Tensor libtorch(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values) {
  return at::scaled_dot_product_attention(queries, keys, values, {}, 0.0, /*is_causal=*/true);
}

/// [B, H, S, E] as the products before attention leave it.
at::Tensor heads_of(const Case& given) {
  return at::randn({given.batch, given.positions, given.heads, given.head_dim}).transpose(1, 2);
}

/// Two products forward, five backward.
void measure(benchmark::State& state, const Case& given, Attention attention, bool backward) {
  SerialFor serial;
  arithmetic_peak(serial);
  const at::AutoGradMode grad(backward);
  const at::Tensor queries = heads_of(given).requires_grad_(backward), upstream = heads_of(given);
  const at::Tensor keys = heads_of(given).requires_grad_(backward);
  const at::Tensor values = heads_of(given).requires_grad_(backward);
  const at::Tensor out = attention(queries, keys, values);
  for (auto _ : state) {
    if (backward) {
      benchmark::DoNotOptimize(torch::autograd::grad({out}, {queries, keys, values}, {upstream},
                                                     /*retain_graph=*/true));
    } else {
      benchmark::DoNotOptimize(attention(queries, keys, values));
    }
  }
  const std::int64_t seen = given.positions * (given.positions + 1) / 2;
  report_arithmetic(state, serial,
                    (backward ? 5 : 2) * 2.0 *
                        static_cast<double>(given.batch * given.heads * seen * given.head_dim));
}

void register_all() {
  for (const Case& given : kCases) {
    for (const bool backward : {false, true}) {
      const std::string suffix = std::string(backward ? "/backward/" : "/forward/") +
                                 std::to_string(given.batch) + "x" + std::to_string(given.heads) +
                                 "x" + std::to_string(given.positions) + "x" +
                                 std::to_string(given.head_dim);
      const auto add = [&](const char* name, Attention attention) {
        benchmark::RegisterBenchmark((name + suffix).c_str(), [&given, attention,
                                                               backward](auto& state) {
          measure(state, given, attention, backward);
        })->Unit(benchmark::kMillisecond);
      };
      add("ours", ops::causal_attention);
      add("LibTorch", libtorch);
    }
  }
}

}  // namespace
}  // namespace fbi::bench

int main(int argc, char** argv) {
  at::set_num_threads(1);
  fbi::keep_freed_memory();  // as the programs do
  return fbi::bench::run_benchmarks(argc, argv, fbi::bench::register_all);
}
