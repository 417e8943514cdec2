#include <map>
#include <string_view>

#include "fbi/config/load.h"
#include "fbi/core/error.h"
#include "fbi/exporter/model_tensors.h"

namespace fbi::exporter {
namespace {

using Role = TensorSpec::Role;
using Shape = std::vector<std::int64_t>;

std::string sibling(const std::string& weight, std::string_view suffix) {
  return concat(std::string_view(weight).substr(0, weight.rfind('.') + 1), suffix);
}

void add_linear(std::vector<TensorSpec>& tensors, config::Binarize binarize,
                const std::string& name, kernels::MatrixShape shape) {
  const bool dense = binarize == config::Binarize::kNone;
  tensors.push_back({name, {shape.rows, shape.columns}, dense ? Role::kDense : Role::kLatent});
  if (dense) return;
  const Shape scales = scale_shape(binarize, shape);
  tensors.push_back({scale_name(name), scales, Role::kScale});
  tensors.push_back({shift_name(name), scales, Role::kShift});
}

void add_layer(std::vector<TensorSpec>& tensors, const config::ModelConfig& model,
               std::int64_t layer) {
  const std::string prefix = concat("model.layers.", layer, ".");
  const std::int64_t hidden = model.hidden_size, inner = model.intermediate_size;
  const std::int64_t queries = model.num_attention_heads * model.head_dim;
  const std::int64_t keys = model.num_key_value_heads * model.head_dim;
  const auto linear = [&](const char* name, std::int64_t outputs, std::int64_t inputs) {
    add_linear(tensors, model.binarize, prefix + name + ".weight", {outputs, inputs});
  };
  tensors.push_back({prefix + "input_layernorm.weight", {hidden}});
  linear("self_attn.q_proj", queries, hidden);
  linear("self_attn.k_proj", keys, hidden);
  linear("self_attn.v_proj", keys, hidden);
  linear("self_attn.o_proj", hidden, queries);
  tensors.push_back({prefix + "post_attention_layernorm.weight", {hidden}});
  linear("mlp.gate_proj", inner, hidden);
  linear("mlp.up_proj", inner, hidden);
  linear("mlp.down_proj", hidden, inner);
}

}  // namespace

std::int64_t TensorSpec::numel() const {
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) count *= extent;
  return count;
}

std::string scale_name(const std::string& weight) {
  return sibling(weight, "wscale");
}
std::string shift_name(const std::string& weight) {
  return sibling(weight, "wbias");
}

std::vector<std::int64_t> scale_shape(config::Binarize binarize, kernels::MatrixShape weight) {
  switch (binarize) {
    case config::Binarize::kColumn:
      return {1, weight.columns};
    case config::Binarize::kRow:
      return {weight.rows, 1};
    case config::Binarize::kSingle:
      return {};
    case config::Binarize::kNone:
      break;
  }
  throw UsageError("a dense model has no scales");
}

kernels::ScaleStrides scale_strides(config::Binarize binarize) {
  switch (binarize) {
    case config::Binarize::kColumn:
      return kernels::ScaleStrides::per_column();
    case config::Binarize::kRow:
      return kernels::ScaleStrides::per_row();
    case config::Binarize::kSingle:
      return kernels::ScaleStrides::single();
    case config::Binarize::kNone:
      break;
  }
  throw UsageError("a dense model has no scales");
}

std::vector<TensorSpec> model_tensors(const config::ModelConfig& unresolved) {
  config::ModelConfig model = unresolved;
  config::resolve(model);
  std::vector<TensorSpec> tensors;
  tensors.push_back({"model.embed_tokens.weight", {model.vocab_size, model.hidden_size}});
  for (std::int64_t layer = 0; layer < model.num_hidden_layers; ++layer) {
    add_layer(tensors, model, layer);
  }
  tensors.push_back({"model.norm.weight", {model.hidden_size}});
  if (!model.tie_word_embeddings) {
    tensors.push_back({"lm_head.weight", {model.vocab_size, model.hidden_size}});
  }
  return tensors;
}

void check_tensors(const formats::ModelSource& source, const config::ModelConfig& model) {
  std::string problems;
  std::map<std::string, Shape> expected;
  for (const TensorSpec& tensor : model_tensors(model)) {
    const auto found = source.shape(tensor.name);
    if (!found) {
      problems += concat("\n  missing: ", tensor.name, " ", formats::shape_text(tensor.shape));
    } else if (*found != tensor.shape) {
      problems += concat("\n  ", tensor.name, ": expected ", formats::shape_text(tensor.shape),
                         ", found ", formats::shape_text(*found));
    }
    expected.emplace(tensor.name, tensor.shape);
  }
  for (const std::string& name : source.names()) {
    const bool tied_head = model.tie_word_embeddings && name == "lm_head.weight";
    if (!expected.contains(name) && !tied_head && !name.ends_with("rotary_emb.inv_freq")) {
      problems += concat("\n  not used by this architecture: ", name);
    }
  }
  if (!problems.empty()) {
    throw DataError(concat("tensors in ", source.description(), " do not fit the model:", problems,
                           "\nCheck its configuration (sizes, num_hidden_layers, "
                           "tie_word_embeddings, binarize)."));
  }
}

}  // namespace fbi::exporter
