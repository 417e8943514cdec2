#pragma once

#include <cstdint>

#include "fbi/core/parallel.h"

/// Causal attention (Vaswani et al. 2017) of whole sequences, forward and backward, fp32: position
/// t sees the positions up to t, with softmax(q·k / sqrt(head_dim)). Scores exist for a block of
/// queries at a time, and those of later positions are not formed. No result depends on the number
/// of threads, on the other sequences or on the other heads.
namespace fbi::kernels {

/// x [batch, positions, heads, head_dim]. Values of one head lie side by side; strides count
/// elements.
struct HeadValues {
  const float* x = nullptr;
  std::int64_t batch_stride = 0, position_stride = 0, head_stride = 0;
};

struct AttentionInput {
  std::int64_t batch = 0, positions = 0;
  std::int64_t heads = 0;
  std::int64_t key_value_heads = 0;  ///< each serves heads / key_value_heads heads of queries
  std::int64_t head_dim = 0;
  HeadValues queries, keys, values;
};

/// What backward needs of a query's softmax, [batch, heads, positions] each.
struct SoftmaxRows {
  float* max = nullptr;          ///< of q·k, before the division by sqrt(head_dim)
  float* inverse_sum = nullptr;  ///< 1 / Σ exp((q·k - max) / sqrt(head_dim))
};

/// out, contiguous [batch, positions, heads, head_dim].
void causal_attention(const AttentionInput& input, float* out, const SoftmaxRows& rows,
                      ParallelFor& parallel);

/// Gradients, contiguous [batch, positions, heads or key_value_heads, head_dim] each, of Σ
/// dout·out; `rows` as causal_attention has left them.
struct AttentionGradients {
  float* queries = nullptr;
  float* keys = nullptr;
  float* values = nullptr;
};
void causal_attention_backward(const AttentionInput& input, const SoftmaxRows& rows,
                               const HeadValues& dout, const AttentionGradients& gradients,
                               ParallelFor& parallel);

}  // namespace fbi::kernels
