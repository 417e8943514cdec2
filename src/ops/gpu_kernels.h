#pragma once

#include <ATen/core/Tensor.h>

#include "fbi/kernels/adamw.h"
#include "fbi/kernels/binary_matrix.h"
#include "fbi/ops/fp8.h"
#include "fbi/ops/loss.h"
#include "fbi/ops/parameter_slot.h"

/// kernels::cuda on tensors of the current stream: gpu_kernels_cuda.cpp in builds with FBI_CUDA=ON,
/// else gpu_kernels_absent.cpp, whose functions are never reached because choose_device gives no
/// GPU. Formulas and roundings: fbi/kernels/cuda.h.
namespace fbi::ops::gpu {

bool built();
/// Makes that GPU the current one, and sets what LibTorch leaves open. Before anything is allocated
/// there.
void use(at::Device device);
/// 90 for 9.0.
int compute_capability(at::Device device);

/// Into `out`, of the slot's shape.
void effective_weight(const ParameterSlot& slot, const at::Tensor& out);
void pack_signs(const float* latent, kernels::MatrixShape shape, std::uint8_t* bits);
void scale_gradients(const float* grad, const std::uint8_t* bits, const float* alpha,
                     kernels::ScaleStrides strides, kernels::MatrixShape shape, float* dalpha,
                     float* dbeta, double* squares);
void sum_of_squares(const at::Tensor& x, double* out);
void adamw(const at::Tensor& value, const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq,
           const at::Tensor& grad, const kernels::AdamWStep& step);
void adamw_latent(const at::Tensor& latent, const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq,
                  const at::Tensor& grad, const float* alpha, kernels::ScaleStrides strides,
                  std::uint8_t* bits, const kernels::AdamWStep& step, std::int64_t* flips);

/// Losses per token, fp32 [2, T]: next token, distillation. logits (fp32, bf16 or fp16) become the
/// gradient.
at::Tensor distill_loss(const at::Tensor& logits, const at::Tensor& teacher_logits,
                        const at::Tensor& targets, const LossWeights& weights, double grad_scale);
at::Tensor next_token_nll(const at::Tensor& logits, const at::Tensor& targets);

/// fp32 x, result in `dtype`; inverse_rms [T] is written.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, at::ScalarType dtype,
                    at::Tensor& inverse_rms);
/// dweight may be undefined.
at::Tensor rms_norm_backward(const at::Tensor& x, const at::Tensor& weight,
                             const at::Tensor& inverse_rms, const at::Tensor& dout,
                             const at::Tensor& dweight);
/// x [B, H, S, E] with values of a head side by side; the result lies in memory as [B, S, H, E].
at::Tensor rotary(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse);
at::Tensor silu_product(const at::Tensor& gate, const at::Tensor& up);
void silu_product_backward(const at::Tensor& dout, const at::Tensor& gate, const at::Tensor& up,
                           at::Tensor& dgate, at::Tensor& dup);
void accumulate_embedding_gradient(const at::Tensor& grad, const at::Tensor& ids,
                                   const at::Tensor& dx, std::int64_t skip_id);
Fp8Rows quantize_rows(const at::Tensor& x);
Fp8SignInputs quantize_for_signs(const at::Tensor& x, const at::Tensor& alpha,
                                 const at::Tensor& beta);
at::Tensor signs_as_fp8(const ParameterSlot& slot);
at::Tensor fp8_product(const Fp8Rows& a, const Fp8Rows& b, at::ScalarType dtype, Fp8Sums sums);
/// a b in `dtype`, fp32 or that of a and b.
at::Tensor product(const at::Tensor& a, const at::Tensor& b, at::ScalarType dtype);
/// target += a b, fp32 sums of products of a's and b's dtype.
void add_product(at::Tensor& target, const at::Tensor& a, const at::Tensor& b);

}  // namespace fbi::ops::gpu
