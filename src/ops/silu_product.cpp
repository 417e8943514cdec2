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
#include "ops/slot_products.h"

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
    return silu_product_rows(gate, up);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    return silu_product_rows_backward(grads[0], saved[0], saved[1]);
  }
};

}  // namespace

at::Tensor silu_product_rows(const at::Tensor& gate, const at::Tensor& up) {
  if (gate.is_cuda()) return gpu::silu_product(gate, up);
  if (!has_kernel(gate)) return at::silu(gate).mul_(up);
  at::Tensor out = at::empty_like(gate);
  kernels::silu_product(gate.const_data_ptr<float>(), up.const_data_ptr<float>(), gate.numel(),
                        out.data_ptr<float>(), torch_parallel_for());
  return out;
}

std::vector<at::Tensor> silu_product_rows_backward(const at::Tensor& dout, const at::Tensor& gate,
                                                   const at::Tensor& up) {
  const at::Tensor dy = dout.contiguous();
  if (!gate.is_cuda() && !has_kernel(gate)) {
    at::Tensor of_gate = at::silu_backward(dy * up, gate);
    return {of_gate, at::silu(gate).mul_(dy)};
  }
  at::Tensor dgate = at::empty_like(gate), dup = at::empty_like(up);
  if (gate.is_cuda()) {
    gpu::silu_product_backward(dy, gate, up, dgate, dup);
  } else {
    kernels::silu_product_backward(
        dy.const_data_ptr<float>(), gate.const_data_ptr<float>(), up.const_data_ptr<float>(),
        gate.numel(), dgate.data_ptr<float>(), dup.data_ptr<float>(), torch_parallel_for());
  }
  return {dgate, dup};
}

at::Tensor silu_product(const at::Tensor& gate, const at::Tensor& up) {
  return SiluProduct::apply(gate.contiguous(), up.contiguous());
}

}  // namespace fbi::ops
