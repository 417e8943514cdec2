#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "fbi/ops/parameter_slot.h"

/// Differentiable operations whose parameters live in a ParameterSlot. Gradients of parameters go
/// straight into `slot.grad` (fp32, added), never through autograd; a slot must outlive the graphs
/// that were built with it. When `slot.grad` is undefined (evaluation, teacher) no parameter
/// gradient is formed.
///
/// Shapes: T tokens (batch and sequence flattened or not: leading dimensions are free), I inputs, O
/// outputs, D hidden.
namespace fbi::ops {

/// The matrix that forward and backward multiply with, [O, I] in `dtype`: alpha·s + beta formed in
/// fp32 and rounded once (packed), or the value (dense).
at::Tensor working_weight(const ParameterSlot& slot, at::ScalarType dtype);

/// From here on products in `dtype` (fp32 or bf16) unpack the signs of this packed slot once, and
/// again only when they have changed: memory for W~, in exchange for work; the same bits.
void keep_unpacked(ParameterSlot& slot, at::ScalarType dtype);

/// y = x W~ᵀ, [T, I] -> [T, O] in `dtype`. Backward: dx = dY W~ in `dtype`, slot.grad += dYᵀ x
/// accumulated in fp32.
at::Tensor linear(const at::Tensor& x, ParameterSlot& slot, at::ScalarType dtype);

/// `linear` of one input with several slots of one width, which is converted and kept once; the
/// gradient of x is summed in its own dtype, from the last slot to the first.
std::vector<at::Tensor> linears(const at::Tensor& x, const std::vector<ParameterSlot*>& slots,
                                at::ScalarType dtype);

/// target += aᵀ b in fp32 for a [T, O], b [T, I] of any floating dtype; the one place where G is
/// accumulated.
void accumulate_outer(at::Tensor& target, const at::Tensor& a, const at::Tensor& b);

/// RMSNorm (Zhang & Sennrich 2019) in fp32: y = w · x / sqrt(mean(x²) + eps), [T, D] -> [T, D].
at::Tensor rms_norm(const at::Tensor& x, ParameterSlot& slot, double eps);

/// silu(gate)·up, of one shape and dtype; the gate of LLaMA's MLP (SwiGLU, Shazeer 2020).
at::Tensor silu_product(const at::Tensor& gate, const at::Tensor& up);

/// linears(rms_norm(x), slots) and linear(silu_product(gate, up), slot). Backward makes the input
/// of the products again from x, or from gate and up, rather than keep it: the same bits, for a
/// fraction of the work of the products.
std::vector<at::Tensor> normed_linears(const at::Tensor& x, ParameterSlot& norm, double eps,
                                       const std::vector<ParameterSlot*>& slots,
                                       at::ScalarType dtype);
at::Tensor silu_product_linear(at::Tensor gate, at::Tensor up, ParameterSlot& slot,
                               at::ScalarType dtype);

/// Rows of the embedding, ids int64 [T] -> [T, D] in the slot's dtype.
at::Tensor embedding(const at::Tensor& ids, const ParameterSlot& slot);
/// slot.grad[ids[t]] += dx[t] in token order (deterministic); tokens equal to `pad_token_id` (-1:
/// none) are left out.
void accumulate_embedding_gradient(ParameterSlot& slot, const at::Tensor& ids, const at::Tensor& dx,
                                   std::int64_t pad_token_id);

/// Causal attention on the CPU in fp32, with the softmax of q·k / sqrt(E): queries [B, H, S, E],
/// keys and values [B, K, S, E], each shared by H / K heads of queries. The result, [B, H, S, E],
/// lies in memory as [B, S, H, E].
at::Tensor causal_attention(const at::Tensor& queries, const at::Tensor& keys,
                            const at::Tensor& values);

/// Rotary embedding in the rotate-half layout: x [B, H, S, E], cos and sin [S, E/2] in the dtype of
/// x.
at::Tensor rotary(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);

}  // namespace fbi::ops
