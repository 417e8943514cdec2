// What unpacking signs takes of a decoder layer's linears: of each matrix W~ is formed twice in a
// micro-step, for forward and for backward, beside three products. On a GPU a layer of the 7B model
// in bf16 over 8,192 tokens; else one of the 130M model in fp32 over 2,048, or as told:
//   unpack_share_bench [TOKENS]
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>

#include "fbi/core/system.h"
#include "fbi/ops/device.h"
#include "fbi/ops/packing.h"
#include "fbi/ops/slot_ops.h"

namespace fbi::bench {
namespace {

struct Layer {
  std::int64_t hidden, inner;
  at::ScalarType dtype;
  std::int64_t tokens;
};

/// Seconds of a call, the fastest of five times. A GPU is waited for by looking at the tensor that
/// a call gives, which takes as long as a call: so it is given many at once.
double fastest(at::Device device, const std::function<at::Tensor()>& call) {
  const int calls = device.is_cuda() ? 50 : 1;
  double best = std::numeric_limits<double>::infinity();
  for (int k = 0; k < 6; ++k) {
    const auto start = std::chrono::steady_clock::now();
    for (int n = 1; n < calls; ++n) call();
    call().flatten()[0].item();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    if (k > 0) best = std::min(best, seconds.count() / calls);  // the first makes what is kept
  }
  return best;
}

struct Times {
  double unpacking = 0, all = 0;
};

/// One matrix [outputs, inputs], forward and backward.
Times measure(std::int64_t outputs, std::int64_t inputs, const Layer& layer, at::Device device) {
  const auto fp32 = at::TensorOptions(device).dtype(at::kFloat);
  ops::ParameterSlot slot;
  slot.name = "matrix";
  slot.kind = ops::SlotKind::kPacked;
  slot.shape = {outputs, inputs};
  const at::Tensor latent = at::randn(slot.shape, fp32);
  slot.bits = at::zeros({outputs, (inputs + 7) / 8}, fp32.dtype(at::kByte));
  slot.alpha = at::full({inputs}, 0.02, fp32);
  slot.beta = at::zeros({inputs}, fp32);
  slot.grad = at::zeros(slot.shape, fp32);
  ops::pack_signs(slot, latent);
  const auto activations = fp32.dtype(layer.dtype);
  const at::Tensor x = at::randn({layer.tokens, inputs}, activations).requires_grad_();
  const at::Tensor dy = at::randn({layer.tokens, outputs}, activations);
  return {2 * fastest(device, [&] { return ops::working_weight(slot, layer.dtype); }),
          fastest(device, [&] {
            const at::Tensor y = ops::linear(x, slot, layer.dtype);
            return torch::autograd::grad({y}, {x}, {dy}).front();
          })};
}

void report(Layer layer, at::Device device) {
  Times sum;
  const auto add = [&](std::int64_t outputs, std::int64_t inputs, int matrices) {
    const Times one = measure(outputs, inputs, layer, device);
    sum.unpacking += matrices * one.unpacking;
    sum.all += matrices * one.all;
  };
  add(layer.hidden, layer.hidden, 4);
  add(layer.inner, layer.hidden, 2);
  add(layer.hidden, layer.inner, 1);
  std::printf(
      "layer %lld x %lld, %lld tokens, %s: unpacking %.3f ms of %.3f ms, %.2f %% of its linears\n",
      static_cast<long long>(layer.hidden), static_cast<long long>(layer.inner),
      static_cast<long long>(layer.tokens), c10::toString(layer.dtype), 1e3 * sum.unpacking,
      1e3 * sum.all, 100 * sum.unpacking / sum.all);
}

}  // namespace
}  // namespace fbi::bench

int main(int argc, char** argv) {
  using namespace fbi;
  keep_freed_memory();
  const at::Device device = ops::choose_device("auto", 0);
  bench::Layer layer = device.is_cuda() ? bench::Layer{4096, 11008, at::kBFloat16, 8192}
                                        : bench::Layer{768, 2048, at::kFloat, 2048};
  if (argc > 1) layer.tokens = std::strtoll(argv[1], nullptr, 10);
  if (argc > 2 || layer.tokens <= 0) {
    std::fprintf(stderr, "usage: unpack_share_bench [TOKENS]\n");
    return 2;
  }
  bench::report(layer, device);
}
