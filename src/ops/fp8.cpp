#include "fbi/ops/fp8.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <limits>

#include "fbi/core/error.h"
#include "fbi/ops/matrix_product.h"
#include "ops/gpu_kernels.h"

namespace fbi::ops {
namespace {

constexpr double kLargest = 448;

}  // namespace

Fp8Rows quantize_rows(const at::Tensor& x) {
  const at::NoGradGuard no_grad;
  if (x.is_cuda()) return gpu::quantize_rows(x.contiguous());
  const at::Tensor values = x.to(at::kFloat);
  const at::Tensor scales = (values.abs().amax(-1, /*keepdim=*/true) / kLargest)
                                .clamp_min_(std::numeric_limits<float>::min());
  return {(values / scales).to(at::kFloat8_e4m3fn), scales.squeeze(-1)};
}

at::Tensor fp8_product(const Fp8Rows& a, const Fp8Rows& b, at::ScalarType dtype) {
  const at::NoGradGuard no_grad;
  if (a.values.is_cuda()) return gpu::fp8_product(a, b, dtype);
  at::Tensor sums = matrix_product(a.values.to(at::kFloat), b.values.to(at::kFloat).t());
  return sums.mul_(a.scales.unsqueeze(1)).mul_(b.scales).to(dtype);
}

void store_as_fp8(ParameterSlot& slot) {
  if (slot.kind != SlotKind::kDense || slot.grad.defined())
    throw UsageError(
        concat(slot.name, ": only full-precision matrices without gradient can be stored as fp8"));
  const Fp8Rows rows = quantize_rows(slot.value);
  slot.value = rows.values;
  slot.value_scales = rows.scales;
}

void check_fp8(at::Device device) {
  if (!device.is_cuda()) return;
  if (const int capability = gpu::compute_capability(device); capability < 89)
    throw UsageError(
        concat("fp8 products need a GPU of compute capability 8.9 or more (Ada, Hopper), found ",
               capability / 10, ".", capability % 10, " on ", device.str(), ": use bf16"));
}

}  // namespace fbi::ops
