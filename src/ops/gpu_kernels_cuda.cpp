#include <ATen/Context.h>
#include <ATen/ops/_scaled_mm.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>
#include <c10/core/AllocatorConfig.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include "fbi/core/error.h"
#include "fbi/kernels/cuda.h"
#include "fbi/ops/scale_strides.h"
#include "ops/gpu_kernels.h"

namespace fbi::ops::gpu {
namespace {

namespace cuda = kernels::cuda;

cuda::Stream stream() {
  return c10::cuda::getCurrentCUDAStream().stream();
}

cuda::Element element_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return cuda::Element::kFp32;
    case at::kBFloat16:
      return cuda::Element::kBf16;
    case at::kHalf:
      return cuda::Element::kFp16;
    default:
      throw UsageError(concat("kernels for GPUs take fp32, bf16 and fp16, found ", type));
  }
}

at::Tensor on_gpu(std::int64_t count, at::ScalarType type) {
  return at::empty({count},
                   at::TensorOptions().dtype(type).device(at::kCUDA, c10::cuda::current_device()));
}

kernels::MatrixShape shape_of(const at::Tensor& matrix) {
  return {matrix.size(0), matrix.size(1)};
}

Fp8Rows quantize(const at::Tensor& x, const cuda::ColumnScales& columns) {
  const auto rows = x.size(0), width = x.size(1);
  Fp8Rows out{at::empty({rows, width}, x.options().dtype(at::kFloat8_e4m3fn)),
              at::empty({rows}, x.options().dtype(at::kFloat))};
  cuda::quantize_rows(x.const_data_ptr(), element_of(x.scalar_type()), rows, width, columns,
                      static_cast<std::uint8_t*>(out.values.mutable_data_ptr()),
                      out.scales.data_ptr<float>(), stream());
  return out;
}

cuda::RmsNormArgs norm_input(const at::Tensor& x, const at::Tensor& weight) {
  return {x.const_data_ptr(), element_of(x.scalar_type()), weight.const_data_ptr<float>(),
          x.numel() / x.size(-1), x.size(-1)};
}

}  // namespace

bool built() {
  return true;
}

void use(at::Device device) {
  // Segments that grow: blocks of the many sizes of a step do not leave holes that nothing fits. A
  // user's own choice stays.
  if (c10::CachingAllocator::getAllocatorSettings().empty())
    c10::CachingAllocator::setAllocatorSettings("expandable_segments:True");
  // Where a product is cut along its sum, parts of 16 bits are added in fp32.
  at::globalContext().setAllowBF16ReductionCuBLAS(false);
  at::globalContext().setAllowFP16ReductionCuBLAS(false);
  c10::cuda::set_device(device.index());
}

int compute_capability(at::Device device) {
  int major = 0, minor = 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index()) !=
          cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device.index()) !=
          cudaSuccess)
    throw cuda::CudaError(concat("asking for the compute capability of ", device.str(), " failed"));
  return 10 * major + minor;
}

void effective_weight(const ParameterSlot& slot, const at::Tensor& out) {
  cuda::effective_weight(slot.bits.const_data_ptr<std::uint8_t>(),
                         slot.alpha.const_data_ptr<float>(), slot.beta.const_data_ptr<float>(),
                         scale_strides(slot), {slot.rows(), slot.columns()},
                         element_of(out.scalar_type()), out.mutable_data_ptr(), stream());
}

void pack_signs(const float* latent, kernels::MatrixShape shape, std::uint8_t* bits) {
  cuda::pack_signs(latent, shape, bits, stream());
}

void scale_gradients(const float* grad, const std::uint8_t* bits, const float* alpha,
                     kernels::ScaleStrides strides, kernels::MatrixShape shape, float* dalpha,
                     float* dbeta, double* squares) {
  const at::Tensor workspace = on_gpu(cuda::scale_gradients_workspace(strides, shape), at::kDouble);
  cuda::scale_gradients(grad, bits, alpha, strides, shape, dalpha, dbeta, squares,
                        workspace.data_ptr<double>(), stream());
}

void sum_of_squares(const at::Tensor& x, double* out) {
  const at::Tensor workspace = on_gpu(cuda::sum_of_squares_workspace(x.numel()), at::kDouble);
  cuda::sum_of_squares(x.const_data_ptr<float>(), x.numel(), out, workspace.data_ptr<double>(),
                       stream());
}

void adamw(const at::Tensor& value, const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq,
           const at::Tensor& grad, const kernels::AdamWStep& step) {
  cuda::adamw(value.data_ptr<float>(), exp_avg.data_ptr<float>(), exp_avg_sq.data_ptr<float>(),
              grad.const_data_ptr<float>(), value.numel(), step, stream());
}

void adamw_latent(const at::Tensor& latent, const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq,
                  const at::Tensor& grad, const float* alpha, kernels::ScaleStrides strides,
                  std::uint8_t* bits, const kernels::AdamWStep& step, std::int64_t* flips) {
  cuda::adamw_latent(latent.data_ptr<float>(), exp_avg.data_ptr<float>(),
                     exp_avg_sq.data_ptr<float>(), grad.const_data_ptr<float>(), alpha, strides,
                     shape_of(latent), bits, step, flips, stream());
}

at::Tensor distill_loss(const at::Tensor& logits, const at::Tensor& teacher_logits,
                        const at::Tensor& targets, const LossWeights& weights, double grad_scale) {
  const std::int64_t tokens = logits.size(0);
  const at::Tensor losses = at::zeros({2, tokens}, logits.options().dtype(at::kFloat));
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
  args.loss_next = losses.data_ptr<float>();
  args.loss_distill = losses.data_ptr<float>() + tokens;
  cuda::distill_loss(args, stream());
  return losses;
}

at::Tensor next_token_nll(const at::Tensor& logits, const at::Tensor& targets) {
  at::Tensor out = at::empty({logits.size(0)}, logits.options().dtype(at::kFloat));
  cuda::next_token_nll(logits.const_data_ptr(), element_of(logits.scalar_type()),
                       targets.const_data_ptr<std::int32_t>(), logits.size(0), logits.size(1),
                       out.data_ptr<float>(), stream());
  return out;
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, at::ScalarType dtype,
                    at::Tensor& inverse_rms) {
  at::Tensor out = at::empty(x.sizes(), x.options().dtype(dtype));
  cuda::rms_norm(norm_input(x, weight), eps, out.mutable_data_ptr(), element_of(out.scalar_type()),
                 inverse_rms.data_ptr<float>(), stream());
  return out;
}

at::Tensor rms_norm_backward(const at::Tensor& x, const at::Tensor& weight,
                             const at::Tensor& inverse_rms, const at::Tensor& dout,
                             const at::Tensor& dweight) {
  at::Tensor dx = at::empty_like(x), workspace;
  const auto input = norm_input(x, weight);
  if (dweight.defined())
    workspace = on_gpu(cuda::rms_norm_backward_workspace(input.tokens, input.width), at::kFloat);
  cuda::rms_norm_backward(input, inverse_rms.const_data_ptr<float>(), dout.const_data_ptr(),
                          element_of(dout.scalar_type()), dx.mutable_data_ptr(),
                          dweight.defined() ? dweight.data_ptr<float>() : nullptr,
                          dweight.defined() ? workspace.data_ptr<float>() : nullptr, stream());
  return dx;
}

at::Tensor rotary(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse) {
  at::Tensor out =
      at::empty({x.size(0), x.size(2), x.size(1), x.size(3)}, x.options()).transpose(1, 2);
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
  cuda::silu_product(gate.const_data_ptr(), up.const_data_ptr(), element_of(gate.scalar_type()),
                     gate.numel(), out.mutable_data_ptr(), stream());
  return out;
}

void silu_product_backward(const at::Tensor& dout, const at::Tensor& gate, const at::Tensor& up,
                           at::Tensor& dgate, at::Tensor& dup) {
  cuda::silu_product_backward(dout.const_data_ptr(), gate.const_data_ptr(), up.const_data_ptr(),
                              element_of(gate.scalar_type()), gate.numel(),
                              dgate.mutable_data_ptr(), dup.mutable_data_ptr(), stream());
}

void accumulate_embedding_gradient(const at::Tensor& grad, const at::Tensor& ids,
                                   const at::Tensor& dx, std::int64_t skip_id) {
  const auto [sorted, order] = ids.sort(/*stable=*/std::optional<bool>(true), 0);
  cuda::EmbeddingGradientArgs args;
  args.ids = sorted.const_data_ptr<std::int64_t>();
  args.order = order.const_data_ptr<std::int64_t>();
  args.dx = dx.const_data_ptr();
  args.type = element_of(dx.scalar_type());
  args.tokens = ids.numel();
  args.rows = grad.size(0);
  args.width = grad.size(1);
  args.skip_id = skip_id;
  args.grad = grad.data_ptr<float>();
  cuda::accumulate_embedding_gradient(args, stream());
}

Fp8Rows quantize_rows(const at::Tensor& x) {
  return quantize(x, {});
}

Fp8SignInputs quantize_for_signs(const at::Tensor& x, const at::Tensor& alpha,
                                 const at::Tensor& beta) {
  const at::Tensor sums = at::empty({x.size(0)}, x.options().dtype(at::kFloat));
  return {quantize(x, {alpha.const_data_ptr<float>(), beta.const_data_ptr<float>(),
                       sums.mutable_data_ptr<float>()}),
          sums};
}

at::Tensor signs_as_fp8(const ParameterSlot& slot) {
  const at::Tensor out = at::empty(slot.shape, slot.bits.options().dtype(at::kFloat8_e4m3fn));
  cuda::unpack_signs_e4m3(slot.bits.const_data_ptr<std::uint8_t>(), {slot.rows(), slot.columns()},
                          static_cast<std::uint8_t*>(out.mutable_data_ptr()), stream());
  return out;
}

at::Tensor fp8_product(const Fp8Rows& a, const Fp8Rows& b, at::ScalarType dtype, Fp8Sums sums) {
  return at::_scaled_mm(a.values, b.values.t(), a.scales.unsqueeze(1), b.scales.unsqueeze(0), {},
                        {}, dtype, /*use_fast_accum=*/sums == Fp8Sums::kFast);
}

at::Tensor product(const at::Tensor& a, const at::Tensor& b, at::ScalarType dtype) {
  return a.scalar_type() == dtype ? at::mm(a, b) : at::mm(a, b, dtype);
}

void add_product(at::Tensor& target, const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() == target.scalar_type()) {
    target.addmm_(a, b);
  } else {
    // Products of 16 bits, sums in fp32.
    at::addmm_out(target, target, a, b, target.scalar_type(), 1, 1);
  }
}

}  // namespace fbi::ops::gpu
