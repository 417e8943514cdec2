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
LayerWalk::Buffer LayerWalk::cast(const Buffer& x, std::int64_t width, std::int64_t from,
                                  std::int64_t to) {
  return from == to ? x : activation(shape_.tokens * width * to);
}

LayerWalk::Buffer LayerWalk::working_weight(const config::LinearShape& linear) {
  if (!shape_.packed && shape_.value_element == shape_.element) return {};
  return workspace(linear.outputs * linear.inputs * shape_.element);
}

/// What a product takes x [T, I] as: in the compute dtype, or in fp8 with a scale per token.
LayerWalk::Buffer LayerWalk::operand(const Buffer& x, std::int64_t width, std::int64_t from) {
  return shape_.fp8 ? activation(shape_.tokens * (width + 4))
                    : cast(x, width, from, shape_.element);
}

/// The reference multiplies in fp32.
void LayerWalk::multiply_fp8(const config::LinearShape& linear) {
  if (!shape_.mixed_products)
    workspace(4 *
              (shape_.tokens * (linear.inputs + linear.outputs) + linear.inputs * linear.outputs));
}

LayerWalk::Buffer LayerWalk::linear(const Buffer&, const config::LinearShape& linear) {
  if (shape_.fp8_signs) return linear_of_fp8_signs(linear);
  const Buffer weight = shape_.fp8 ? Buffer() : working_weight(linear);
  if (shape_.fp8) multiply_fp8(linear);
  return activation(shape_.tokens * linear.outputs * shape_.element);
}

LayerWalk::Buffer LayerWalk::linear_of_fp8_signs(const config::LinearShape& linear) {
  const bool reference = !shape_.mixed_products;
  const Buffer rows = activation(shape_.tokens * (linear.inputs + 8));  // with a scale and a sum
  if (reference) workspace(shape_.tokens * linear.inputs * 8);  // alpha·x and its quotients
  const Buffer signs = workspace(linear.outputs * linear.inputs);
  multiply_fp8(linear);
  const Buffer y = activation(shape_.tokens * linear.outputs * shape_.element);
  if (reference && shape_.element != 4)  // the shift is added in fp32
    workspace(shape_.tokens * linear.outputs * 8);
  return y;
}

/// slot.grad += dYᵀ x, then dx = dY W~ in the compute dtype.
LayerWalk::Buffer LayerWalk::linear_backward(const config::LinearShape& linear) {
  if (shape_.element != 4 && !shape_.mixed_products)
    workspace(shape_.tokens * (linear.outputs + linear.inputs) * 4);
  const Buffer weight = working_weight(linear);
  return activation(shape_.tokens * linear.inputs * shape_.element);
}

/// dx in fp32 of an input that several slots share: of the last of them.
LayerWalk::Buffer LayerWalk::shared_input_gradient(const config::LinearShape& linear) {
  if (!shape_.mixed_products)
    return cast(linear_backward(linear), linear.inputs, shape_.element, 4);
  const Buffer dx = activation(shape_.tokens * linear.inputs * 4);
  add_to(dx, linear);
  return dx;
}

void LayerWalk::add_to(const Buffer&, const config::LinearShape& linear) {
  if (shape_.mixed_products)
    working_weight(linear);
  else
    linear_backward(linear);
}

LayerWalk::Buffer LayerWalk::norm_forward(Buffer* inverse_rms) {
  const Buffer out = stream();
  *inverse_rms = activation(shape_.tokens * 4);
  return out;
}

LayerWalk::Buffer LayerWalk::norm_backward() {
  return stream();
}

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
  const bool copies = s.keys != s.queries && !s.own_attention;
  graph.k = copies ? activation(repeated) : keys;
  graph.v = copies ? activation(repeated) : values;
  graph.mixed = activation(repeated);
  graph.softmax_rows = activation(s.tokens * s.heads * (s.own_attention ? 8 : 4));
}

LayerWalk::Buffer LayerWalk::attention(const Buffer& normed, Graph* graph) {
  const PassShape& s = shape_;
  Buffer input = operand(normed, s.hidden, 4);
  Buffer q = linear(input, linears_[kQuery]), k = linear(input, linears_[kKey]);
  const Buffer v = linear(input, linears_[kValue]);
  if (graph) graph->attention_input = input;
  input.reset();
  q = rotary(q, s.queries);
  k = rotary(k, s.keys);
  Buffer mixed;
  {
    Graph inside;
    Graph& parts = graph ? *graph : inside;
    attend(q, k, v, parts);
    mixed = cast(parts.mixed, s.queries, s.attention_element, s.element);
    if (s.own_attention) parts.mixed.reset();
  }
  if (graph) graph->o_input = mixed;
  return linear(operand(mixed, s.queries, s.element), linears_[kOutput]);
}

LayerWalk::Buffer LayerWalk::mlp(const Buffer& normed, Graph* graph) {
  const std::int64_t bytes = shape_.tokens * shape_.wide * shape_.element;
  Buffer input = operand(normed, shape_.hidden, 4);
  Buffer gate = linear(input, linears_[kGate]), up = linear(input, linears_[kUp]);
  if (graph) graph->mlp_input = input;
  input.reset();
  const Buffer product = activation(bytes);
  if (graph) {
    graph->gate = gate;
    graph->up = up;
    graph->product = product;
  }
  gate.reset();
  up.reset();
  return linear(operand(product, shape_.wide, shape_.element), linears_[kDown]);
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
LayerWalk::Buffer LayerWalk::mlp_backward(const Buffer&, Graph& graph) {
  const PassShape& s = shape_;
  const std::int64_t bytes = s.tokens * s.wide * s.element;
  Buffer dproduct = linear_backward(linears_[kDown]);
  graph.product.reset();
  const Buffer dgate = activation(bytes), dup = activation(bytes);
  dproduct.reset();
  graph.gate.reset();
  graph.up.reset();
  const Buffer dnormed = shared_input_gradient(linears_[kUp]);
  add_to(dnormed, linears_[kGate]);
  graph.mlp_input.reset();
  return dnormed;
}

LayerWalk::Buffer LayerWalk::attention_backward(const Buffer&, Graph& graph) {
  const PassShape& s = shape_;
  const std::int64_t wide = s.tokens * s.queries * s.attention_element;
  Buffer dmixed =
      cast(linear_backward(linears_[kOutput]), s.queries, s.element, s.attention_element);
  graph.o_input.reset();
  const std::int64_t narrow = s.tokens * s.keys * s.attention_element;
  const bool copies = s.keys != s.queries && !s.own_attention;
  Buffer dq = activation(wide), dk = activation(copies ? wide : narrow);
  Buffer dv = activation(copies ? wide : narrow);
  if (s.attention_element != 4) workspace(s.tokens * s.queries * 4);  // dq is accumulated in fp32
  graph.q.reset();
  graph.k.reset();
  graph.v.reset();
  graph.mixed.reset();
  graph.softmax_rows.reset();
  dmixed.reset();
  if (copies) {  // sums over heads
    dk = activation(narrow);
    dv = activation(narrow);
  }

  dv = cast(dv, s.keys, s.attention_element, s.element);
  dk = rotary(cast(dk, s.keys, s.attention_element, s.element), s.keys);
  dq = rotary(cast(dq, s.queries, s.attention_element, s.element), s.queries);
  const Buffer dnormed = shared_input_gradient(linears_[kValue]);
  add_to(dnormed, linears_[kKey]);
  add_to(dnormed, linears_[kQuery]);
  graph.attention_input.reset();
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
