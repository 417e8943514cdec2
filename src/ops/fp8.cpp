#include "fbi/ops/fp8.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros_like.h>

#include <limits>

#include "fbi/core/error.h"
#include "fbi/ops/matrix_product.h"
#include "fbi/ops/slot_ops.h"
#include "ops/gpu_kernels.h"

namespace fbi::ops {
namespace {

constexpr double kLargest = 448;
constexpr std::int64_t kGpuMultiple = 16;  // of the widths that tensor cores take

}  // namespace

Fp8Rows quantize_rows(const at::Tensor& x) {
  const at::NoGradGuard no_grad;
  if (x.is_cuda()) return gpu::quantize_rows(x.contiguous());
  const at::Tensor values = x.to(at::kFloat);
  const at::Tensor scales = (values.abs().amax(-1, /*keepdim=*/true) / kLargest)
                                .clamp_min_(std::numeric_limits<float>::min());
  return {(values / scales).to(at::kFloat8_e4m3fn), scales.squeeze(-1)};
}

Fp8SignInputs quantize_for_signs(const at::Tensor& x, const at::Tensor& alpha,
                                 const at::Tensor& beta) {
  const at::NoGradGuard no_grad;
  if (x.is_cuda()) return gpu::quantize_for_signs(x.contiguous(), alpha, beta);
  at::Tensor values = x.to(at::kFloat);
  const at::Tensor sums = values.mv(beta);
  values = values * alpha;  // and what was widened goes
  return {quantize_rows(values), sums};
}

at::Tensor signs_as_fp8(const ParameterSlot& slot) {
  const at::NoGradGuard no_grad;
  if (slot.bits.is_cuda()) return gpu::signs_as_fp8(slot);
  ParameterSlot signs = slot;
  signs.alpha = at::ones_like(slot.alpha);
  signs.beta = at::zeros_like(slot.beta);
  return working_weight(signs, at::kFloat).to(at::kFloat8_e4m3fn);
}

at::Tensor fp8_product(const Fp8Rows& a, const Fp8Rows& b, at::ScalarType dtype, Fp8Sums sums) {
  const at::NoGradGuard no_grad;
  if (a.values.is_cuda()) return gpu::fp8_product(a, b, dtype, sums);
  at::Tensor y = matrix_product(a.values.to(at::kFloat), b.values.to(at::kFloat).t());
  return y.mul_(a.scales.unsqueeze(1)).mul_(b.scales).to(dtype);
}

void store_as_fp8(ParameterSlot& slot) {
  if (slot.kind != SlotKind::kDense || slot.grad.defined())
    throw UsageError(
        concat(slot.name, ": only full-precision matrices without gradient can be stored as fp8"));
  const Fp8Rows rows = quantize_rows(slot.value);
  slot.value = rows.values;
  slot.value_scales = rows.scales;
}

void check_fp8(const Fp8Choice& choice, at::Device device) {
  if (device.is_cuda()) check_fp8_capability(choice, device, gpu::compute_capability(device));
}

void check_fp8_capability(const Fp8Choice& choice, at::Device device, int capability) {
  if (capability < 89)
    throw UsageError(concat(
        choice.option, " needs a GPU of compute capability 8.9 or more (Ada, Hopper), found ",
        capability / 10, ".", capability % 10, " on ", device.str(), "; use ", choice.instead));
}

void check_fp8_widths(const Fp8Choice& choice, at::Device device, const ParameterSlot& slot) {
  if (!device.is_cuda()) return;
  if (slot.rows() % kGpuMultiple != 0 || slot.columns() % kGpuMultiple != 0)
    throw UsageError(concat(choice.option, ": on a GPU widths must be multiples of ", kGpuMultiple,
                            ", but ", slot.name, " is [", slot.rows(), ", ", slot.columns(),
                            "]; use ", choice.instead));
}

}  // namespace fbi::ops
