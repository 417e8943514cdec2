#include "fbi/ops/update.h"

#include "fbi/ops/parallel.h"
#include "ops/gpu_kernels.h"

namespace fbi::ops {
namespace {

float* data(const at::Tensor& tensor) {
  return tensor.data_ptr<float>();
}

}  // namespace

void scale_gradients(const SlotRows& rows, const at::Tensor& grad, float* dalpha, float* dbeta,
                     double* squares) {
  if (rows.device.is_cuda()) {
    return gpu::scale_gradients(data(grad), rows.bits, rows.alpha, rows.strides, rows.shape, dalpha,
                                dbeta, squares);
  }
  *squares = kernels::scale_gradients(data(grad), rows.bits, rows.alpha, rows.strides, rows.shape,
                                      dalpha, dbeta, torch_parallel_for());
}

void adamw_latent(const SlotRows& rows, const at::Tensor& latent, const at::Tensor& exp_avg,
                  const at::Tensor& exp_avg_sq, const at::Tensor& grad,
                  const kernels::AdamWStep& step, std::int64_t* flips) {
  if (rows.device.is_cuda()) {
    return gpu::adamw_latent(latent, exp_avg, exp_avg_sq, grad, rows.alpha, rows.strides, rows.bits,
                             step, flips);
  }
  *flips +=
      kernels::adamw_latent(data(latent), data(exp_avg), data(exp_avg_sq), data(grad), rows.alpha,
                            rows.strides, rows.shape, rows.bits, step, torch_parallel_for());
}

void adamw(const at::Tensor& value, const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq,
           const at::Tensor& grad, const kernels::AdamWStep& step) {
  if (value.is_cuda()) return gpu::adamw(value, exp_avg, exp_avg_sq, grad, step);
  kernels::adamw(data(value), data(exp_avg), data(exp_avg_sq), data(grad), value.numel(), step,
                 torch_parallel_for());
}

void sum_of_squares(const at::Tensor& x, double* out) {
  if (x.is_cuda()) return gpu::sum_of_squares(x, out);
  *out = kernels::sum_of_squares(data(x), x.numel(), torch_parallel_for());
}

void pack_signs(const SlotRows& rows, const at::Tensor& latent) {
  if (rows.device.is_cuda()) return gpu::pack_signs(data(latent), rows.shape, rows.bits);
  kernels::pack_signs(data(latent), rows.shape, rows.bits, torch_parallel_for());
}

}  // namespace fbi::ops
