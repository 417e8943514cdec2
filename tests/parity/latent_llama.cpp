#include "parity/latent_llama.h"

#include <cmath>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>

#include "fbi/core/error.h"
#include "fbi/nn/fbi_linear.h"

namespace fbi::parity {
namespace {

using config::ModelConfig;
using torch::nn::Linear;

struct RmsNormImpl : torch::nn::Module {
  RmsNormImpl(std::int64_t size, double epsilon)
      : weight(register_parameter("weight", at::ones({size}))), eps(epsilon) {}
  at::Tensor forward(const at::Tensor& x) {
    return weight * (x * at::rsqrt(x.square().mean(-1, /*keepdim=*/true) + eps));
  }
  at::Tensor weight;
  double eps;
};
TORCH_MODULE(RmsNorm);

/// cos and sin, [S, E/2], computed in fp32 as the published model does, rounded to `dtype`.
struct RotaryTables {
  RotaryTables(std::int64_t seq, const ModelConfig& model, at::ScalarType dtype) {
    const at::Tensor exponents = at::arange(0, model.head_dim, 2, at::kFloat) / model.head_dim;
    const at::Tensor frequencies = at::pow(at::Scalar(model.rope_theta), exponents).reciprocal();
    const at::Tensor angles = at::arange(seq, at::kFloat).unsqueeze(1) * frequencies;
    cos = angles.cos().to(dtype);
    sin = angles.sin().to(dtype);
  }
  /// x [B, H, S, E]: the two halves of a head rotated against each other.
  at::Tensor rotate(const at::Tensor& x) const {
    const auto halves = x.chunk(2, -1);
    return at::cat({halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, -1);
  }
  at::Tensor cos, sin;
};

/// A projection whose weight is used in the dtype of its input (FbiLinear does this by itself).
template <class Projection>
at::Tensor project(Projection& projection, const at::Tensor& x) {
  if constexpr (std::is_same_v<Projection, Linear>)
    return at::linear(x, projection->weight.to(x.scalar_type()));
  else
    return projection->forward(x);
}

template <class Projection>
Projection make_projection(std::int64_t in, std::int64_t out, const ModelConfig& model) {
  if constexpr (std::is_same_v<Projection, Linear>) {
    return Linear(torch::nn::LinearOptions(in, out).bias(false));
  } else {
    const auto pattern = model.binarize == config::Binarize::kRow      ? ops::ScalePattern::kRow
                         : model.binarize == config::Binarize::kSingle ? ops::ScalePattern::kSingle
                                                                       : ops::ScalePattern::kColumn;
    return nn::FbiLinear(nn::FbiLinearOptions(in, out).pattern(pattern).shift(model.shift));
  }
}

/// Registers a projection below a module and returns it.
template <class Projection>
Projection add_projection(torch::nn::Module& parent, const std::string& name, std::int64_t in,
                          std::int64_t out, const ModelConfig& model) {
  return parent.register_module(name, make_projection<Projection>(in, out, model));
}

/// model.tie_scales: all use the scale of the first.
template <class Projection>
void tie_scales(const ModelConfig& model, Projection& first,
                std::initializer_list<Projection> others) {
  if constexpr (std::is_same_v<Projection, nn::FbiLinear>) {
    if (!model.tie_scales) return;
    for (const Projection& other : others) other.ptr()->share_scale(*first);
  }
}

template <class Projection>
struct Attention : torch::nn::Module {
  explicit Attention(const ModelConfig& model)
      : heads(model.num_attention_heads),
        shared_heads(model.num_key_value_heads),
        head_dim(model.head_dim) {
    const std::int64_t hidden = model.hidden_size, all = heads * head_dim,
                       shared = shared_heads * head_dim;
    q = add_projection<Projection>(*this, "q_proj", hidden, all, model);
    k = add_projection<Projection>(*this, "k_proj", hidden, shared, model);
    v = add_projection<Projection>(*this, "v_proj", hidden, shared, model);
    o = add_projection<Projection>(*this, "o_proj", all, hidden, model);
    tie_scales(model, q, {k, v});
  }

  /// x [B, S, D] in the compute dtype; exact softmax in fp32.
  at::Tensor forward(const at::Tensor& x, const RotaryTables& rotary) {
    const at::Tensor queries = rotary.rotate(split(project(q, x), heads)).to(at::kFloat);
    const at::Tensor keys = rotary.rotate(split(project(k, x), shared_heads)).to(at::kFloat);
    const at::Tensor values = split(project(v, x), shared_heads).to(at::kFloat);
    const std::int64_t group = heads / shared_heads, seq = x.size(1);
    const at::Tensor scores =
        at::matmul(queries, repeat(keys, group).transpose(2, 3)) / std::sqrt(head_dim);
    const at::Tensor future = at::ones({seq, seq}, at::kBool).triu(1);
    const at::Tensor weights = scores.masked_fill(future, -INFINITY).softmax(-1);
    const at::Tensor mixed = at::matmul(weights, repeat(values, group)).to(x.scalar_type());
    return project(o, mixed.transpose(1, 2).flatten(2));
  }

  /// [B, S, n·E] -> [B, n, S, E]
  at::Tensor split(const at::Tensor& x, std::int64_t n) const {
    return x.view({x.size(0), x.size(1), n, head_dim}).transpose(1, 2);
  }
  static at::Tensor repeat(const at::Tensor& x, std::int64_t group) {
    return group == 1 ? x : x.repeat_interleave(group, 1);
  }

  std::int64_t heads, shared_heads, head_dim;
  Projection q{nullptr}, k{nullptr}, v{nullptr}, o{nullptr};
};

template <class Projection>
struct Mlp : torch::nn::Module {
  explicit Mlp(const ModelConfig& model) {
    const std::int64_t hidden = model.hidden_size, wide = model.intermediate_size;
    gate = add_projection<Projection>(*this, "gate_proj", hidden, wide, model);
    up = add_projection<Projection>(*this, "up_proj", hidden, wide, model);
    down = add_projection<Projection>(*this, "down_proj", wide, hidden, model);
    tie_scales(model, gate, {up});
  }
  at::Tensor forward(const at::Tensor& x) {
    return project(down, at::silu(project(gate, x)) * project(up, x));
  }
  Projection gate{nullptr}, up{nullptr}, down{nullptr};
};

template <class Projection>
struct Layer : torch::nn::Module {
  explicit Layer(const ModelConfig& model) {
    attention_norm =
        register_module("input_layernorm", RmsNorm(model.hidden_size, model.rms_norm_eps));
    attention = register_module("self_attn", std::make_shared<Attention<Projection>>(model));
    mlp_norm =
        register_module("post_attention_layernorm", RmsNorm(model.hidden_size, model.rms_norm_eps));
    mlp = register_module("mlp", std::make_shared<Mlp<Projection>>(model));
  }
  /// x [B, S, D] fp32, the residual stream.
  at::Tensor forward(const at::Tensor& x, const RotaryTables& rotary, at::ScalarType dtype) {
    const at::Tensor middle = x + attention->forward(attention_norm(x).to(dtype), rotary);
    return middle + mlp->forward(mlp_norm(middle).to(dtype));
  }
  RmsNorm attention_norm{nullptr}, mlp_norm{nullptr};
  std::shared_ptr<Attention<Projection>> attention;
  std::shared_ptr<Mlp<Projection>> mlp;
};

torch::nn::Embedding make_embedding(const ModelConfig& model) {
  return torch::nn::Embedding(torch::nn::EmbeddingOptions(model.vocab_size, model.hidden_size)
                                  .padding_idx(model.pad_token_id));
}

template <class Projection>
struct Decoder : torch::nn::Module {
  Decoder(const ModelConfig& model_, at::ScalarType dtype_) : model(model_), dtype(dtype_) {
    embed = register_module("embed_tokens", make_embedding(model));
    torch::nn::ModuleList list = register_module("layers", torch::nn::ModuleList());
    for (std::int64_t n = 0; n < model.num_hidden_layers; ++n) {
      layers.push_back(std::make_shared<Layer<Projection>>(model));
      list->push_back(layers.back());
    }
    norm = register_module("norm", RmsNorm(model.hidden_size, model.rms_norm_eps));
  }
  at::Tensor forward(const at::Tensor& tokens) {
    const RotaryTables rotary(tokens.size(1), model, dtype);
    at::Tensor x = embed(tokens);
    for (const auto& layer : layers) x = layer->forward(x, rotary, dtype);
    return norm(x).to(dtype);
  }
  ModelConfig model;
  at::ScalarType dtype;
  torch::nn::Embedding embed{nullptr};
  std::vector<std::shared_ptr<Layer<Projection>>> layers;
  RmsNorm norm{nullptr};
};

template <class Projection>
struct LatentLlama final : CausalLm {
  LatentLlama(const ModelConfig& config, at::ScalarType dtype) {
    model = register_module("model", std::make_shared<Decoder<Projection>>(config, dtype));
    head = add_projection<Linear>(*this, "lm_head", config.hidden_size, config.vocab_size, config);
  }
  at::Tensor forward(const at::Tensor& tokens) override {
    return project(head, model->forward(tokens));
  }
  std::shared_ptr<Decoder<Projection>> model;
  Linear head{nullptr};
};

}  // namespace

std::shared_ptr<CausalLm> make_latent_llama(const ModelConfig& model, config::Precision precision) {
  if (model.tie_word_embeddings) throw UsageError("latent form: a tied head is not supported");
  if (model.rope_scaling.type != "default")
    throw UsageError(
        concat("latent form: rotary scaling '", model.rope_scaling.type, "' is not supported"));
  const at::ScalarType dtype = precision == config::Precision::kBf16 ? at::kBFloat16 : at::kFloat;
  if (model.binarize == config::Binarize::kNone)
    return std::make_shared<LatentLlama<Linear>>(model, dtype);
  return std::make_shared<LatentLlama<nn::FbiLinear>>(model, dtype);
}

}  // namespace fbi::parity
