#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

#include "fbi/core/error.h"
#include "fbi/kernels/cuda.h"
#include "fbi/ops/scale_strides.h"
#include "ops/gpu_kernels.h"

namespace fbi::ops::gpu {
namespace {

namespace cuda = kernels::cuda;

cuda::Stream stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

cuda::Element element_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat: return cuda::Element::kFp32;
    case at::kBFloat16: return cuda::Element::kBf16;
    case at::kHalf: return cuda::Element::kFp16;
    default: throw UsageError(concat("kernels for GPUs take fp32, bf16 and fp16, found ", type));
  }
}

at::Tensor on_gpu(std::int64_t count, at::ScalarType type) {
  return at::empty({count}, at::TensorOptions().dtype(type).device(at::kCUDA, c10::cuda::current_device()));
}

kernels::MatrixShape shape_of(const at::Tensor& matrix) { return {matrix.size(0), matrix.size(1)}; }

cuda::RmsNormArgs norm_input(const at::Tensor& x, const at::Tensor& weight) {
  return {x.const_data_ptr(), element_of(x.scalar_type()), weight.const_data_ptr<float>(), x.numel() / x.size(-1), x.size(-1)};
}

}  // namespace

bool built() { return true; }

void use(at::Device device) { c10::cuda::set_device(device.index()); }

at::Tensor effective_weight(const ParameterSlot& slot, at::ScalarType dtype) {
  at::Tensor out = at::empty(slot.shape, slot.bits.options().dtype(dtype));
  cuda::effective_weight(slot.bits.const_data_ptr<std::uint8_t>(), slot.alpha.const_data_ptr<float>(),
                         slot.beta.const_data_ptr<float>(), scale_strides(slot), {slot.rows(), slot.columns()}, element_of(dtype),
                         out.mutable_data_ptr(), stream());
  return out;
}

void pack_signs(const float* latent, kernels::MatrixShape shape, std::uint8_t* bits) {
  cuda::pack_signs(latent, shape, bits, stream());
}

double scale_gradients(const float* grad, const std::uint8_t* bits, const float* alpha, kernels::ScaleStrides strides,
                       kernels::MatrixShape shape, float* dalpha, float* dbeta) {
  const at::Tensor squares = on_gpu(1, at::kDouble);
  const at::Tensor workspace = on_gpu(cuda::scale_gradients_workspace(strides, shape), at::kDouble);
  cuda::scale_gradients(grad, bits, alpha, strides, shape, dalpha, dbeta, squares.data_ptr<double>(), workspace.data_ptr<double>(),
                        stream());
  return squares.item<double>();
}

double sum_of_squares(const at::Tensor& x) {
  const at::Tensor out = on_gpu(1, at::kDouble);
  const at::Tensor workspace = on_gpu(cuda::sum_of_squares_workspace(x.numel()), at::kDouble);
  cuda::sum_of_squares(x.const_data_ptr<float>(), x.numel(), out.data_ptr<double>(), workspace.data_ptr<double>(), stream());
  return out.item<double>();
}

void adamw(const at::Tensor& value, const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq, const at::Tensor& grad,
           const kernels::AdamWStep& step) {
  cuda::adamw(value.data_ptr<float>(), exp_avg.data_ptr<float>(), exp_avg_sq.data_ptr<float>(), grad.const_data_ptr<float>(),
              value.numel(), step, stream());
}

std::int64_t adamw_latent(const at::Tensor& latent, const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq, const at::Tensor& grad,
                          const float* alpha, kernels::ScaleStrides strides, std::uint8_t* bits, const kernels::AdamWStep& step) {
  const at::Tensor flips = at::zeros({1}, latent.options().dtype(at::kLong));
  cuda::adamw_latent(latent.data_ptr<float>(), exp_avg.data_ptr<float>(), exp_avg_sq.data_ptr<float>(), grad.const_data_ptr<float>(),
                     alpha, strides, shape_of(latent), bits, step, flips.data_ptr<std::int64_t>(), stream());
  return flips.item<std::int64_t>();
}

TokenLosses distill_loss(const at::Tensor& logits, const at::Tensor& teacher_logits, const at::Tensor& targets,
                         const LossWeights& weights, double grad_scale) {
  const std::int64_t tokens = logits.size(0);
  TokenLosses out{at::zeros({tokens}, logits.options().dtype(at::kFloat)), at::zeros({tokens}, logits.options().dtype(at::kFloat))};
  cuda::DistillLossArgs args;
  args.logits = logits.mutable_data_ptr();
  args.teacher_logits = weights.distill > 0 ? teacher_logits.const_data_ptr() : nullptr;
  args.type = element_of(logits.scalar_type());
  args.targets = targets.const_data_ptr<std::int32_t>();
  args.tokens = tokens;
  args.vocab_size = logits.size(1);
  args.next_token = weights.next_token;
  args.distill = weights.distill;
  args.temperature = weights.temperature;
  args.grad_scale = grad_scale;
  args.loss_next = out.next_token.data_ptr<float>();
  args.loss_distill = out.distill.data_ptr<float>();
  cuda::distill_loss(args, stream());
  return out;
}

at::Tensor next_token_nll(const at::Tensor& logits, const at::Tensor& targets) {
  at::Tensor out = at::empty({logits.size(0)}, logits.options().dtype(at::kFloat));
  cuda::next_token_nll(logits.const_data_ptr(), element_of(logits.scalar_type()), targets.const_data_ptr<std::int32_t>(),
                       logits.size(0), logits.size(1), out.data_ptr<float>(), stream());
  return out;
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, at::Tensor& inverse_rms) {
  at::Tensor out = at::empty_like(x);
  cuda::rms_norm(norm_input(x, weight), eps, out.mutable_data_ptr(), element_of(out.scalar_type()), inverse_rms.data_ptr<float>(),
                 stream());
  return out;
}

at::Tensor rms_norm_backward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& inverse_rms, const at::Tensor& dout,
                             const at::Tensor& dweight) {
  at::Tensor dx = at::empty_like(x), workspace;
  const auto input = norm_input(x, weight);
  if (dweight.defined()) workspace = on_gpu(cuda::rms_norm_backward_workspace(input.tokens, input.width), at::kFloat);
  cuda::rms_norm_backward(input, inverse_rms.const_data_ptr<float>(), dout.const_data_ptr(), element_of(dout.scalar_type()),
                          dx.mutable_data_ptr(), dweight.defined() ? dweight.data_ptr<float>() : nullptr,
                          dweight.defined() ? workspace.data_ptr<float>() : nullptr, stream());
  return dx;
}

at::Tensor rotary(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse) {
  at::Tensor out = at::empty({x.size(0), x.size(2), x.size(1), x.size(3)}, x.options()).transpose(1, 2);
  cuda::RotaryArgs args;
  args.x = x.const_data_ptr();
  args.out = out.mutable_data_ptr();
  args.type = element_of(x.scalar_type());
  args.x_strides = {x.stride(0), x.stride(1), x.stride(2)};
  args.out_strides = {out.stride(0), out.stride(1), out.stride(2)};
  args.batch = x.size(0);
  args.heads = x.size(1);
  args.positions = x.size(2);
  args.head_dim = x.size(3);
  args.cos = cos.const_data_ptr();
  args.sin = sin.const_data_ptr();
  args.inverse = inverse;
  cuda::rotary(args, stream());
  return out;
}

at::Tensor silu_product(const at::Tensor& gate, const at::Tensor& up) {
  at::Tensor out = at::empty_like(gate);
  cuda::silu_product(gate.const_data_ptr(), up.const_data_ptr(), element_of(gate.scalar_type()), gate.numel(),
                     out.mutable_data_ptr(), stream());
  return out;
}

void silu_product_backward(const at::Tensor& dout, const at::Tensor& gate, const at::Tensor& up, at::Tensor& dgate, at::Tensor& dup) {
  cuda::silu_product_backward(dout.const_data_ptr(), gate.const_data_ptr(), up.const_data_ptr(), element_of(gate.scalar_type()),
                              gate.numel(), dgate.mutable_data_ptr(), dup.mutable_data_ptr(), stream());
}

void accumulate_embedding_gradient(const at::Tensor& grad, const at::Tensor& ids, const at::Tensor& dx, std::int64_t skip_id) {
  cuda::EmbeddingGradientArgs args;
  args.ids = ids.const_data_ptr<std::int64_t>();
  args.dx = dx.const_data_ptr();
  args.type = element_of(dx.scalar_type());
  args.tokens = ids.numel();
  args.rows = grad.size(0);
  args.width = grad.size(1);
  args.skip_id = skip_id;
  args.grad = grad.data_ptr<float>();
  cuda::accumulate_embedding_gradient(args, stream());
}

void accumulate_outer(at::Tensor& target, const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() == at::kFloat) {
    target.addmm_(a.t(), b);
  } else {
    at::addmm_out(target, target, a.t(), b, at::kFloat, 1, 1);  // products of 16 bits, sums in fp32
  }
}

}  // namespace fbi::ops::gpu
