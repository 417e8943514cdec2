#include <array>
#include <map>
#include <string_view>

#include "fbi/config/load.h"
#include "fbi/config/model_size.h"
#include "fbi/core/error.h"
#include "fbi/exporter/model_tensors.h"

namespace fbi::exporter {
namespace {

using Role = TensorSpec::Role;
using Shape = std::vector<std::int64_t>;

std::string sibling(const std::string& weight, std::string_view suffix) {
  return concat(std::string_view(weight).substr(0, weight.rfind('.') + 1), suffix);
}

void add_linear(std::vector<TensorSpec>& tensors, const config::ModelConfig& model,
                const std::string& name, kernels::MatrixShape shape) {
  const bool dense = model.binarize == config::Binarize::kNone;
  tensors.push_back({name, {shape.rows, shape.columns}, dense ? Role::kDense : Role::kLatent});
  if (dense) return;
  const Shape scales = scale_shape(model.binarize, shape);
  tensors.push_back({scale_name(name), scales, Role::kScale});
  if (model.shift) tensors.push_back({shift_name(name), scales, Role::kShift});
}

/// In the order of config::decoder_linears.
constexpr std::array<std::string_view, 7> kLinears = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
constexpr std::size_t kFirstOfMlp = 4;

std::string linear_name(std::int64_t layer, std::size_t linear) {
  return concat("model.layers.", layer, ".", kLinears[linear], ".weight");
}

void add_layer(std::vector<TensorSpec>& tensors, const config::ModelConfig& model,
               std::int64_t layer) {
  const auto norm = [&](const char* name) {
    tensors.push_back({concat("model.layers.", layer, ".", name, ".weight"), {model.hidden_size}});
  };
  const auto shapes = config::decoder_linears(model);
  norm("input_layernorm");
  for (std::size_t n = 0; n < kLinears.size(); ++n) {
    if (n == kFirstOfMlp) norm("post_attention_layernorm");
    add_linear(tensors, model, linear_name(layer, n), {shapes[n].outputs, shapes[n].inputs});
  }
}

/// A tied alpha, which files hold once for each of its layers. `model` is resolved.
void check_tied_scales(const formats::ModelSource& source, const config::ModelConfig& model) {
  if (model.binarize != config::Binarize::kColumn || !model.tie_scales) return;
  const auto owners = config::scale_owners(model);
  const auto shapes = config::decoder_linears(model);
  for (std::int64_t layer = 0; layer < model.num_hidden_layers; ++layer) {
    for (std::size_t n = 0; n < owners.size(); ++n) {
      if (owners[n] == n) continue;
      const std::string name = scale_name(linear_name(layer, n));
      const std::string owner = scale_name(linear_name(layer, owners[n]));
      std::vector<float> found(static_cast<std::size_t>(shapes[n].inputs)), expected(found.size());
      source.read(name, found);
      source.read(owner, expected);
      if (found == expected) continue;
      throw DataError(concat(name, " in ", source.description(), " differs from ", owner,
                             ", but tie_scales is true: q, k and v must have the same scales, and "
                             "so must gate and up"));
    }
  }
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

void check_tensors(const formats::ModelSource& source, const config::ModelConfig& unresolved) {
  config::ModelConfig model = unresolved;
  config::resolve(model);
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
                           "tie_word_embeddings, binarize, shift)."));
  }
  check_tied_scales(source, model);
}

}  // namespace fbi::exporter
