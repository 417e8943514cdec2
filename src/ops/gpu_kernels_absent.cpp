#include "fbi/core/error.h"
#include "ops/gpu_kernels.h"

namespace fbi::ops::gpu {
namespace {

[[noreturn]] void absent() {
  throw UsageError("this build has no kernels for GPUs: configure it with FBI_CUDA=ON");
}

}  // namespace

bool built() {
  return false;
}
void use(at::Device) {
  absent();
}
int compute_capability(at::Device) {
  absent();
}
void effective_weight(const ParameterSlot&, const at::Tensor&) {
  absent();
}
void pack_signs(const float*, kernels::MatrixShape, std::uint8_t*) {
  absent();
}
void scale_gradients(const float*, const std::uint8_t*, const float*, kernels::ScaleStrides,
                     kernels::MatrixShape, float*, float*, double*) {
  absent();
}
void sum_of_squares(const at::Tensor&, double*) {
  absent();
}
void adamw(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
           const kernels::AdamWStep&) {
  absent();
}
void adamw_latent(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                  const float*, kernels::ScaleStrides, std::uint8_t*, const kernels::AdamWStep&,
                  std::int64_t*) {
  absent();
}
at::Tensor distill_loss(const at::Tensor&, const at::Tensor&, const at::Tensor&, const LossWeights&,
                        double) {
  absent();
}
at::Tensor next_token_nll(const at::Tensor&, const at::Tensor&) {
  absent();
}
at::Tensor rms_norm(const at::Tensor&, const at::Tensor&, double, at::ScalarType, at::Tensor&) {
  absent();
}
at::Tensor rms_norm_backward(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                             const at::Tensor&, const at::Tensor&) {
  absent();
}
at::Tensor rotary(const at::Tensor&, const at::Tensor&, const at::Tensor&, bool) {
  absent();
}
at::Tensor silu_product(const at::Tensor&, const at::Tensor&) {
  absent();
}
void silu_product_backward(const at::Tensor&, const at::Tensor&, const at::Tensor&, at::Tensor&,
                           at::Tensor&) {
  absent();
}
void accumulate_embedding_gradient(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                   std::int64_t) {
  absent();
}
Fp8Rows quantize_rows(const at::Tensor&) {
  absent();
}
Fp8SignInputs quantize_for_signs(const at::Tensor&, const at::Tensor&, const at::Tensor&) {
  absent();
}
at::Tensor signs_as_fp8(const ParameterSlot&) {
  absent();
}
at::Tensor fp8_product(const Fp8Rows&, const Fp8Rows&, at::ScalarType, Fp8Sums) {
  absent();
}
at::Tensor product(const at::Tensor&, const at::Tensor&, at::ScalarType) {
  absent();
}
void add_product(at::Tensor&, const at::Tensor&, const at::Tensor&) {
  absent();
}

}  // namespace fbi::ops::gpu
