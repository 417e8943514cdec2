#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include "fbi/kernels/layer.h"
#include "fbi/ops/parallel.h"
#include "fbi/ops/slot_ops.h"
#include "ops/gpu_kernels.h"

namespace fbi::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// x [B, H, S, E] with values of a head side by side; the result lies in memory as [B, S, H, E], as
/// the product before it does.
at::Tensor rotated_by_kernel(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                             bool inverse) {
  at::Tensor out = at::empty({x.size(0), x.size(2), x.size(1), x.size(3)}, x.options());
  kernels::rotary({.x = x.const_data_ptr<float>(),
                   .batch_stride = x.stride(0),
                   .position_stride = x.stride(2),
                   .head_stride = x.stride(1),
                   .batch = x.size(0),
                   .positions = x.size(2),
                   .heads = x.size(1),
                   .head_dim = x.size(3),
                   .cos = cos.const_data_ptr<float>(),
                   .sin = sin.const_data_ptr<float>()},
                  inverse, out.data_ptr<float>(), torch_parallel_for());
  return out.transpose(1, 2);
}

/// By the opposite angle when `inverse`.
at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, at::Tensor sin, bool inverse) {
  if (x.is_cuda() && x.stride(3) == 1)
    return gpu::rotary(x, cos.contiguous(), sin.contiguous(), inverse);
  if (x.is_cpu() && x.scalar_type() == at::kFloat && x.stride(3) == 1) {
    return rotated_by_kernel(x, cos.contiguous(), sin.contiguous(), inverse);
  }
  if (inverse) sin = -sin;
  const auto halves = x.chunk(2, -1);
  return at::cat({halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, -1);
}

/// A rotation is orthogonal: its gradient is the rotation by the opposite angle.
struct Rotary : torch::autograd::Function<Rotary> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& cos,
                            const at::Tensor& sin) {
    ctx->save_for_backward({cos, sin});
    return rotate(x, cos, sin, false);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    return {rotate(grads[0], saved[0], saved[1], true), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor rotary(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  return Rotary::apply(x, cos, sin);
}

}  // namespace fbi::ops
