#include "estimate/layer_walk.h"

namespace fbi::estimate {
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

void LayerWalk::add_gradient(const config::LinearShape& linear) {
  if (gradients_)
    gradients_->push_back(ledger_.make(MemoryKind::kGradients, linear.outputs * linear.inputs * 4));
}

/// slot.grad += dYᵀ x, then dx = dY W~ in the compute dtype.
LayerWalk::Buffer LayerWalk::linear_backward(const config::LinearShape& linear) {
  add_gradient(linear);
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
  if (!shape_.mixed_products) {
    linear_backward(linear);
    return;
  }
  add_gradient(linear);
  working_weight(linear);
}

LayerWalk::Buffer LayerWalk::norm_forward(Buffer* inverse_rms) {
  const Buffer out = stream();
  *inverse_rms = activation(shape_.tokens * 4);
  return out;
}

LayerWalk::Buffer LayerWalk::norm_backward() {
  return stream();
}

std::vector<LayerWalk::Buffer> LayerWalk::normed_linears(const std::vector<int>& linears,
                                                         bool records_graph) {
  Buffer inverse_rms, normed = norm_forward(&inverse_rms);
  inverse_rms.reset();
  const Buffer input = operand(normed, shape_.hidden, 4);
  if (records_graph) normed.reset();
  std::vector<Buffer> out;
  for (const int n : linears) out.push_back(linear(input, linears_[n]));
  return out;
}

/// Gradient of x, fp32.
LayerWalk::Buffer LayerWalk::normed_linears_backward(const std::vector<int>& linears,
                                                     std::vector<Buffer> grads) {
  Buffer inverse_rms, normed = norm_forward(&inverse_rms);
  Buffer input = cast(normed, shape_.hidden, 4, shape_.element);
  normed.reset();
  const Buffer dnormed = shared_input_gradient(linears_[linears.back()]);
  for (std::size_t n = linears.size() - 1; n-- > 0;) add_to(dnormed, linears_[linears[n]]);
  input.reset();
  grads.clear();
  return norm_backward();
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

LayerWalk::Buffer LayerWalk::attention(Graph* graph) {
  const PassShape& s = shape_;
  auto products = normed_linears({kQuery, kKey, kValue}, graph != nullptr);
  const Buffer q = rotary(std::exchange(products[0], {}), s.queries);
  const Buffer k = rotary(std::exchange(products[1], {}), s.keys);
  const Buffer v = std::move(products[2]);
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

LayerWalk::Buffer LayerWalk::mlp(Graph* graph) {
  const std::int64_t bytes = shape_.tokens * shape_.wide * shape_.element;
  auto products = normed_linears({kGate, kUp}, graph != nullptr);
  Buffer gate = std::move(products[0]), up = std::move(products[1]);
  const Buffer product = activation(bytes);
  if (graph) {
    graph->gate = gate;
    graph->up = up;
  }
  gate.reset();
  up.reset();
  return linear(operand(product, shape_.wide, shape_.element), linears_[kDown]);
}

LayerWalk::Buffer LayerWalk::forward(const Buffer& x, Graph* graph) {
  Buffer h;
  {
    const Buffer attended = attention(graph);
    h = stream();
  }
  const Buffer fed = mlp(graph);
  if (graph) {
    graph->input = x;
    graph->h = h;
  }
  return stream();
}

/// dy [T, D] in the compute dtype -> gradient of the norm's input, fp32.
LayerWalk::Buffer LayerWalk::mlp_backward(Buffer dy, Graph& graph) {
  const std::int64_t bytes = shape_.tokens * shape_.wide * shape_.element;
  Buffer product = activation(bytes);
  Buffer dproduct = linear_backward(linears_[kDown]);
  product.reset();
  std::vector<Buffer> grads = {activation(bytes), activation(bytes)};
  dproduct.reset();
  dy.reset();
  graph.gate.reset();
  graph.up.reset();
  return normed_linears_backward({kGate, kUp}, std::move(grads));
}

LayerWalk::Buffer LayerWalk::attention_backward(Buffer dy, Graph& graph) {
  const PassShape& s = shape_;
  const std::int64_t wide = s.tokens * s.queries * s.attention_element;
  Buffer dmixed = linear_backward(linears_[kOutput]);
  dy.reset();
  dmixed = cast(dmixed, s.queries, s.element, s.attention_element);
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
  return normed_linears_backward({kQuery, kKey, kValue},
                                 {std::move(dq), std::move(dk), std::move(dv)});
}

LayerWalk::Buffer LayerWalk::backward(const Buffer& dy, Graph graph) {
  const PassShape& s = shape_;
  Buffer dh;
  {
    const Buffer dx = mlp_backward(cast(dy, s.hidden, 4, s.element), graph);
    graph.h.reset();
    dh = stream();  // dy + dx
  }
  const Buffer dx = attention_backward(cast(dh, s.hidden, 4, s.element), graph);
  return dh;  // dx is added to it
}

}  // namespace fbi::estimate
