#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <array>

#include "fbi/config/model_size.h"
#include "fbi/config/tensor_names.h"
#include "fbi/nn/llama.h"
#include "fbi/ops/slot_ops.h"
#include "nn/slots.h"

namespace fbi::nn {
namespace {

/// [B, K, S, E] -> [B, K·groups, S, E]: key and value heads shared by `groups` query heads.
at::Tensor repeat_heads(const at::Tensor& x, std::int64_t groups) {
  if (groups == 1) return x;
  return x.unsqueeze(2)
      .expand({-1, -1, groups, -1, -1})
      .reshape({x.size(0), x.size(1) * groups, x.size(2), x.size(3)});
}

/// Causal attention [B, H, S, E]; `mask` replaces the causal one. On the CPU in fp32 inside (bf16
/// inputs and output): LibTorch's bf16 attention would round the probabilities too, and is slower.
at::Tensor attend(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values,
                  const std::optional<at::Tensor>& mask) {
  const auto inside = [&](const at::Tensor& x) { return x.is_cpu() ? x.to(at::kFloat) : x; };
  const bool is_causal = !mask && queries.size(2) > 1;
  if (is_causal && queries.is_cpu()) {
    return ops::causal_attention(inside(queries), inside(keys), inside(values))
        .to(queries.scalar_type());
  }
  const std::int64_t groups = queries.size(1) / keys.size(1);
  return at::scaled_dot_product_attention(inside(queries), repeat_heads(inside(keys), groups),
                                          repeat_heads(inside(values), groups), mask, 0.0,
                                          is_causal)
      .to(queries.scalar_type());
}

/// Gives `part` [1, K, capacity, E], of which `used` positions are filled, room for `needed`;
/// doubled, so that a position is copied twice on average however many follow.
void reserve(at::Tensor& part, std::int64_t used, std::int64_t needed) {
  if (needed <= part.size(2)) return;
  auto shape = part.sizes().vec();
  shape[2] = std::max(needed, 2 * part.size(2));
  const at::Tensor larger = at::empty(shape, part.options());
  larger.slice(2, 0, used).copy_(part.slice(2, 0, used));
  part = larger;
}

/// Appends the new positions and returns all that are filled.
void extend(KeyValueCache& cache, at::Tensor& keys, at::Tensor& values) {
  const std::int64_t end = cache.length + keys.size(2);
  reserve(cache.keys, cache.length, end);
  reserve(cache.values, cache.length, end);
  cache.keys.slice(2, cache.length, end).copy_(keys);
  cache.values.slice(2, cache.length, end).copy_(values);
  cache.length = end;
  keys = cache.keys.slice(2, 0, end);
  values = cache.values.slice(2, 0, end);
}

/// x in blocks of its last dimension: d = max |x| / 127, the multiples of fp16(d) that are nearest
/// to x in steps of d. 0: x itself.
at::Tensor rounded_to_int8(const at::Tensor& x, std::int64_t block) {
  if (block == 0) return x;
  const at::Tensor blocks = x.to(at::kFloat).reshape({-1, block});
  const at::Tensor step = blocks.abs().amax(-1, /*keepdim=*/true) / 127;
  const at::Tensor steps = at::where(step > 0, blocks / step, at::zeros_like(blocks)).round();
  return (steps * step.to(at::kHalf).to(at::kFloat)).view(x.sizes()).to(x.scalar_type());
}

}  // namespace

DecoderLayer::DecoderLayer(const config::ModelConfig& model, std::int64_t index,
                           const at::TensorOptions& values)
    : heads_(model.num_attention_heads),
      key_value_heads_(model.num_key_value_heads),
      head_dim_(model.head_dim),
      eps_(model.rms_norm_eps) {
  const std::string prefix = config::layer_prefix(index);
  const std::int64_t hidden = model.hidden_size, inner = model.intermediate_size;
  const std::int64_t queries = heads_ * head_dim_, keys = key_value_heads_ * head_dim_;
  const auto linear = [&](const char* name, std::int64_t outputs, std::int64_t inputs) {
    return make_linear_slot(prefix + name + ".weight", outputs, inputs, model, values);
  };
  input_norm_ = make_norm_slot(prefix + config::kInputNorm, hidden, values.device());
  q_ = linear("self_attn.q_proj", queries, hidden);
  k_ = linear("self_attn.k_proj", keys, hidden);
  v_ = linear("self_attn.v_proj", keys, hidden);
  o_ = linear("self_attn.o_proj", hidden, queries);
  post_attention_norm_ =
      make_norm_slot(prefix + config::kPostAttentionNorm, hidden, values.device());
  gate_ = linear("mlp.gate_proj", inner, hidden);
  up_ = linear("mlp.up_proj", inner, hidden);
  down_ = linear("mlp.down_proj", hidden, inner);
  if (model.binarize != config::Binarize::kNone && model.tie_scales) tie_scales(model);
}

void DecoderLayer::tie_scales(const config::ModelConfig& model) {
  const std::array<ops::ParameterSlot*, 7> linears = {&q_, &k_, &v_, &o_, &gate_, &up_, &down_};
  const auto owners = config::scale_owners(model);
  std::array<std::int64_t, 7> rows{};  // so far, of those with the alpha of each
  for (std::size_t n = 0; n < linears.size(); ++n) {
    const std::size_t owner = owners[n];
    if (owner != n) share_alpha(*linears[n], *linears[owner], rows[owner]);
    rows[owner] += linears[n]->rows();
  }
}

std::vector<ops::ParameterSlot*> DecoderLayer::slots() {
  return {&input_norm_, &q_, &k_, &v_, &o_, &post_attention_norm_, &gate_, &up_, &down_};
}

std::vector<at::Tensor> DecoderLayer::products_of_normed(
    const at::Tensor& x, ops::ParameterSlot& norm, const std::vector<ops::ParameterSlot*>& slots,
    at::ScalarType dtype) {
  if (activation_block_ == 0) return ops::normed_linears(x, norm, eps_, slots, dtype);
  return ops::linears(rounded_to_int8(ops::rms_norm(x, norm, eps_), activation_block_), slots,
                      dtype);
}

at::Tensor DecoderLayer::attention(const at::Tensor& x, const RotaryTable& rotary,
                                   at::ScalarType dtype, KeyValueCache* cache) {
  const std::int64_t batch = x.size(0), seq = x.size(1);
  auto products = products_of_normed(x, input_norm_, {&q_, &k_, &v_}, dtype);
  const auto by_heads = [&](at::Tensor product, std::int64_t heads) {
    return product.view({batch, seq, heads, head_dim_}).transpose(1, 2);
  };
  const at::Tensor queries =
      ops::rotary(by_heads(std::move(products[0]), heads_), rotary.cos, rotary.sin);
  at::Tensor keys =
      ops::rotary(by_heads(std::move(products[1]), key_value_heads_), rotary.cos, rotary.sin);
  at::Tensor values = by_heads(std::move(products[2]), key_value_heads_);
  if (cache) extend(*cache, keys, values);

  std::optional<at::Tensor> mask;
  const std::int64_t past = keys.size(2) - seq;
  // Several new tokens behind a filled cache: token s sees positions 0 … past + s.
  if (past > 0 && seq > 1) {
    const auto options = x.options().dtype(at::kLong);
    mask = at::arange(past + seq, options).unsqueeze(0) <=
           at::arange(past, past + seq, options).unsqueeze(1);
  }
  const at::Tensor mixed = attend(queries, keys, values, mask);
  const at::Tensor rows = mixed.transpose(1, 2).reshape({batch, seq, heads_ * head_dim_});
  return ops::linear(rounded_to_int8(rows, activation_block_), o_, dtype);
}

at::Tensor DecoderLayer::mlp(const at::Tensor& x, at::ScalarType dtype) {
  auto products = products_of_normed(x, post_attention_norm_, {&gate_, &up_}, dtype);
  at::Tensor gate = std::move(products[0]), up = std::move(products[1]);
  if (activation_block_ == 0)
    return ops::silu_product_linear(std::move(gate), std::move(up), down_, dtype);
  return ops::linear(rounded_to_int8(ops::silu_product(gate, up), activation_block_), down_, dtype);
}

at::Tensor DecoderLayer::forward(const at::Tensor& x, const RotaryTable& rotary,
                                 at::ScalarType dtype, KeyValueCache* cache) {
  const at::Tensor h = x + attention(x, rotary, dtype, cache);
  return h + mlp(h, dtype);
}

}  // namespace fbi::nn
