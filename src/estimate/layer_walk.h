#pragma once

#include <vector>

#include "estimate/memory_ledger.h"
#include "fbi/config/model_size.h"

namespace fbi::estimate {

/// Sizes of one micro-step of a model on one rank. T tokens, D hidden, Q and K widths of all query
/// and key heads, F feed-forward.
struct PassShape {
  std::int64_t tokens = 0, hidden = 0, queries = 0, keys = 0, wide = 0, heads = 0;
  bool fp8 = false;           ///< linear layers and their inputs take one byte; without gradient
  bool fp8_signs = false;     ///< x W~ᵀ from signs and inputs of one byte; backward as it is
  bool packed = true;         ///< linear layers are unpacked when they are used
  bool fused_rotary = false;  ///< one kernel, no parts to be joined
  /// Heads that share keys need no copies of them, and the result is not kept.
  bool own_attention = false;
  /// Operands of two bytes add to fp32 sums; else they are widened first.
  bool mixed_products = false;
  std::int64_t element = 4;  ///< bytes of the compute dtype
  std::int64_t attention_element = 4;
  std::int64_t value_element = 4;  ///< of dense weights as they are stored
};

PassShape pass_shape(const config::ModelConfig& model, std::int64_t tokens);

/// Walks nn::DecoderLayer and the operations of ops through a ledger. What a tensor is called in
/// the comments is its name there.
class LayerWalk {
 public:
  using Buffer = MemoryLedger::Buffer;

  /// What autograd saves of one layer's forward.
  struct Graph {
    Buffer input, q, k, v, mixed, softmax_rows, o_input, h, gate, up;
  };

  LayerWalk(MemoryLedger& ledger, const PassShape& shape,
            const std::array<config::LinearShape, 7>& linears)
      : ledger_(ledger), shape_(shape), linears_(linears) {}

  /// From now on backward makes a gradient buffer for each matrix, in `gradients`; nullptr: they
  /// are there already.
  void make_gradients(std::vector<Buffer>* gradients) { gradients_ = gradients; }
  /// The residual stream [T, D] fp32.
  Buffer stream() { return activation(shape_.tokens * shape_.hidden * 4); }
  /// x -> y; `graph` is null under no_grad.
  Buffer forward(const Buffer& x, Graph* graph);
  /// dy -> dx; frees the graph as autograd does.
  Buffer backward(const Buffer& dy, Graph graph);
  Buffer norm_forward(Buffer* inverse_rms);
  Buffer norm_backward();

 private:
  Buffer activation(std::int64_t bytes) { return ledger_.make(MemoryKind::kActivations, bytes); }
  Buffer workspace(std::int64_t bytes) { return ledger_.make(MemoryKind::kWorkspace, bytes); }
  Buffer cast(const Buffer& x, std::int64_t width, std::int64_t from, std::int64_t to);
  Buffer working_weight(const config::LinearShape& linear);
  Buffer operand(const Buffer& x, std::int64_t width, std::int64_t from);
  /// Linear layers of norm(x), which is not kept; `grads` are those of what they gave.
  std::vector<Buffer> normed_linears(const std::vector<int>& linears, bool records_graph);
  Buffer normed_linears_backward(const std::vector<int>& linears, std::vector<Buffer> grads);
  void multiply_fp8(const config::LinearShape& linear);
  Buffer linear_of_fp8_signs(const config::LinearShape& linear);
  Buffer linear(const Buffer& input, const config::LinearShape& linear);
  void attend(const Buffer& q, const Buffer& k, const Buffer& v, Graph& graph);
  Buffer linear_backward(const config::LinearShape& linear);
  void add_gradient(const config::LinearShape& linear);
  Buffer shared_input_gradient(const config::LinearShape& linear);
  void add_to(const Buffer& dx, const config::LinearShape& linear);
  Buffer rotary(const Buffer& x, std::int64_t width);
  Buffer attention(Graph* graph);
  Buffer attention_backward(Buffer dy, Graph& graph);
  Buffer mlp(Graph* graph);
  Buffer mlp_backward(Buffer dy, Graph& graph);

  MemoryLedger& ledger_;
  PassShape shape_;
  std::array<config::LinearShape, 7> linears_;
  std::vector<Buffer>* gradients_ = nullptr;
};

}  // namespace fbi::estimate
