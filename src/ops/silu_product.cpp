#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <torch/csrc/autograd/custom_function.h>

#include "fbi/kernels/layer.h"
#include "fbi/ops/parallel.h"
#include "fbi/ops/slot_ops.h"
#include "ops/gpu_kernels.h"

namespace fbi::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool has_kernel(const at::Tensor& x) {
  return x.is_cpu() && x.scalar_type() == at::kFloat;
}

/// Keeps gate and up, not silu(gate) besides.
struct SiluProduct : torch::autograd::Function<SiluProduct> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate, const at::Tensor& up) {
    ctx->save_for_backward({gate, up});
    if (gate.is_cuda()) return gpu::silu_product(gate, up);
    if (!has_kernel(gate)) return at::silu(gate).mul_(up);
    at::Tensor out = at::empty_like(gate);
    kernels::silu_product(gate.const_data_ptr<float>(), up.const_data_ptr<float>(), gate.numel(),
                          out.data_ptr<float>(), torch_parallel_for());
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &gate = saved[0], &up = saved[1], dout = grads[0].contiguous();
    if (gate.is_cuda()) {
      at::Tensor dgate = at::empty_like(gate), dup = at::empty_like(up);
      gpu::silu_product_backward(dout, gate, up, dgate, dup);
      return {dgate, dup};
    }
    if (!has_kernel(gate)) {
      at::Tensor of_gate = at::silu_backward(dout * up, gate);
      return {of_gate, at::silu(gate).mul_(dout)};
    }
    at::Tensor dgate = at::empty_like(gate), dup = at::empty_like(up);
    kernels::silu_product_backward(
        dout.const_data_ptr<float>(), gate.const_data_ptr<float>(), up.const_data_ptr<float>(),
        gate.numel(), dgate.data_ptr<float>(), dup.data_ptr<float>(), torch_parallel_for());
    return {dgate, dup};
  }
};

}  // namespace

at::Tensor silu_product(const at::Tensor& gate, const at::Tensor& up) {
  return SiluProduct::apply(gate.contiguous(), up.contiguous());
}

}  // namespace fbi::ops
