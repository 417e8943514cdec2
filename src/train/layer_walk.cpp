#include "train/layer_walk.h"

namespace fbi::train {
namespace {

enum Linear { kQuery, kKey, kValue, kOutput, kGate, kUp, kDown };

}  // namespace

PassShape pass_shape(const config::ModelConfig& model, std::int64_t tokens) {
  PassShape shape;
  shape.tokens = tokens;
  shape.hidden = model.hidden_size;
  shape.queries = model.num_attention_heads * model.head_dim;
  shape.keys = model.num_key_value_heads * model.head_dim;
  shape.wide = model.intermediate_size;
  shape.heads = model.num_attention_heads;
  shape.packed = model.binarize != config::Binarize::kNone;
  return shape;
}

/// x.to(dtype): the same tensor when it has that type.
LayerWalk::Buffer LayerWalk::cast(const Buffer& x, std::int64_t width, std::int64_t from, std::int64_t to) {
  return from == to ? x : activation(shape_.tokens * width * to);
}

LayerWalk::Buffer LayerWalk::working_weight(const config::LinearShape& linear) {
  if (!shape_.packed && shape_.value_element == shape_.element) return {};
  return workspace(linear.outputs * linear.inputs * shape_.element);
}

/// `saved` is null under no_grad.
LayerWalk::Buffer LayerWalk::linear(const Buffer& x, std::int64_t from, const config::LinearShape& linear, Buffer* saved) {
  const Buffer input = cast(x, linear.inputs, from, shape_.element);
  if (saved) *saved = input;
  const Buffer weight = working_weight(linear);
  return activation(shape_.tokens * linear.outputs * shape_.element);
}

/// slot.grad += dYᵀ x with fp32 operands, then dx = dY W~.
LayerWalk::Buffer LayerWalk::linear_backward(const config::LinearShape& linear, const Buffer&) {
  if (shape_.element != 4) workspace(shape_.tokens * (linear.outputs + linear.inputs) * 4);
  const Buffer weight = working_weight(linear);
  return activation(shape_.tokens * linear.inputs * shape_.element);
}

LayerWalk::Buffer LayerWalk::norm_forward(Buffer* inverse_rms) {
  const Buffer out = stream();
  *inverse_rms = activation(shape_.tokens * 4);
  return out;
}

LayerWalk::Buffer LayerWalk::norm_backward() { return stream(); }

/// Without a kernel six half-width products and sums live until they are joined.
LayerWalk::Buffer LayerWalk::rotary(const Buffer&, std::int64_t width) {
  const std::int64_t bytes = shape_.tokens * width * shape_.element;
  const Buffer halves = shape_.fused_rotary ? Buffer() : activation(3 * bytes);
  return activation(bytes);
}

void LayerWalk::attend(const Buffer& q, const Buffer& k, const Buffer& v, Graph& graph) {
  const PassShape& s = shape_;
  graph.q = cast(q, s.queries, s.element, s.attention_element);
  const Buffer keys = cast(k, s.keys, s.element, s.attention_element);
  const Buffer values = cast(v, s.keys, s.element, s.attention_element);
  const std::int64_t repeated = s.tokens * s.queries * s.attention_element;
  const bool shared = s.keys != s.queries;  // heads are repeated
  graph.k = shared ? activation(repeated) : keys;
  graph.v = shared ? activation(repeated) : values;
  graph.mixed = activation(repeated);
  graph.log_sum_exp = activation(s.tokens * s.heads * 4);
}

LayerWalk::Buffer LayerWalk::attention(const Buffer& normed, Graph* graph) {
  const PassShape& s = shape_;
  const auto saved = [&](Buffer Graph::* input) { return graph ? &(graph->*input) : nullptr; };
  const Buffer q = rotary(linear(normed, 4, linears_[kQuery], saved(&Graph::query_input)), s.queries);
  const Buffer k = rotary(linear(normed, 4, linears_[kKey], saved(&Graph::key_input)), s.keys);
  const Buffer v = linear(normed, 4, linears_[kValue], saved(&Graph::value_input));
  Buffer mixed;
  {
    Graph inside;
    attend(q, k, v, graph ? *graph : inside);
    mixed = cast((graph ? *graph : inside).mixed, s.queries, s.attention_element, s.element);
  }
  const Buffer rows = s.heads_inside ? mixed : activation(s.tokens * s.queries * s.element);
  return linear(rows, s.element, linears_[kOutput], saved(&Graph::o_input));
}

LayerWalk::Buffer LayerWalk::mlp(const Buffer& normed, Graph* graph) {
  const std::int64_t bytes = shape_.tokens * shape_.wide * shape_.element;
  const auto saved = [&](Buffer Graph::* input) { return graph ? &(graph->*input) : nullptr; };
  Buffer gate = linear(normed, 4, linears_[kGate], saved(&Graph::gate_input));
  Buffer up = linear(normed, 4, linears_[kUp], saved(&Graph::up_input));
  const Buffer product = activation(bytes);
  if (graph) {
    graph->gate = gate;
    graph->up = up;
  }
  gate.reset();
  up.reset();
  return linear(product, shape_.element, linears_[kDown], saved(&Graph::product));
}

LayerWalk::Buffer LayerWalk::forward(const Buffer& x, Graph* graph) {
  Buffer h, inverse_rms, post_inverse_rms;
  {
    const Buffer normed = norm_forward(&inverse_rms);
    if (!graph) inverse_rms.reset();
    const Buffer attended = attention(normed, graph);
    h = stream();
  }
  const Buffer normed = norm_forward(&post_inverse_rms);
  if (!graph) post_inverse_rms.reset();
  const Buffer fed = mlp(normed, graph);
  if (graph) {
    graph->input = x;
    graph->inverse_rms = inverse_rms;
    graph->h = h;
    graph->post_inverse_rms = post_inverse_rms;
  }
  return stream();
}

/// dy [T, D] in the compute dtype -> gradient of the normed input, fp32.
LayerWalk::Buffer LayerWalk::mlp_backward(const Buffer& dy, Graph& graph) {
  const PassShape& s = shape_;
  const std::int64_t bytes = s.tokens * s.wide * s.element;
  Buffer dproduct = linear_backward(linears_[kDown], dy);
  graph.product.reset();
  const Buffer dgate = activation(bytes);
  Buffer dup = activation(bytes);
  dproduct.reset();
  graph.gate.reset();
  graph.up.reset();
  const Buffer dnormed = cast(linear_backward(linears_[kUp], dup), s.hidden, s.element, 4);
  dup.reset();
  graph.up_input.reset();
  cast(linear_backward(linears_[kGate], dgate), s.hidden, s.element, 4);  // added to dnormed
  graph.gate_input.reset();
  return dnormed;
}

LayerWalk::Buffer LayerWalk::attention_backward(const Buffer& dy, Graph& graph) {
  const PassShape& s = shape_;
  const std::int64_t wide = s.tokens * s.queries * s.attention_element;
  Buffer dmixed = cast(linear_backward(linears_[kOutput], dy), s.queries, s.element, s.attention_element);
  graph.o_input.reset();
  const bool shared = s.keys != s.queries;  // heads are repeated
  Buffer dq = activation(wide), dk = activation(wide), dv = activation(wide);
  if (s.attention_element != 4) workspace(s.tokens * s.queries * 4);  // dq is accumulated in fp32
  graph.q.reset();
  graph.k.reset();
  graph.v.reset();
  graph.mixed.reset();
  graph.log_sum_exp.reset();
  dmixed.reset();
  if (shared) {  // sums over the repeated heads
    dk = activation(s.tokens * s.keys * s.attention_element);
    dv = activation(s.tokens * s.keys * s.attention_element);
  }

  dv = cast(dv, s.keys, s.attention_element, s.element);
  const Buffer dnormed = cast(linear_backward(linears_[kValue], dv), s.hidden, s.element, 4);
  dv.reset();
  graph.value_input.reset();
  dk = rotary(cast(dk, s.keys, s.attention_element, s.element), s.keys);
  cast(linear_backward(linears_[kKey], dk), s.hidden, s.element, 4);
  dk.reset();
  graph.key_input.reset();
  dq = rotary(cast(dq, s.queries, s.attention_element, s.element), s.queries);
  cast(linear_backward(linears_[kQuery], dq), s.hidden, s.element, 4);
  graph.query_input.reset();
  return dnormed;
}

LayerWalk::Buffer LayerWalk::backward(const Buffer& dy, Graph graph) {
  const PassShape& s = shape_;
  Buffer dh;
  {
    const Buffer dnormed = mlp_backward(cast(dy, s.hidden, 4, s.element), graph);
    const Buffer dx = norm_backward();
    graph.post_inverse_rms.reset();
    graph.h.reset();
    dh = stream();  // dy + dx
  }
  const Buffer dnormed = attention_backward(cast(dh, s.hidden, 4, s.element), graph);
  const Buffer dx = norm_backward();
  return dh;  // dx is added to it
}

}  // namespace fbi::train
