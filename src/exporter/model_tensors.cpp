#include "exporter/model_tensors.h"

#include <map>

#include "fbi/config/load.h"
#include "fbi/config/model_size.h"
#include "fbi/config/tensor_names.h"
#include "fbi/core/error.h"
#include "fbi/formats/safetensors.h"

namespace fbi::exporter {
namespace {

using Role = TensorSpec::Role;
using Shape = std::vector<std::int64_t>;

constexpr std::size_t kFirstOfMlp = 4;  // of config::decoder_linears

std::string weight_name(std::int64_t layer, const config::LinearShape& linear) {
  return concat(config::layer_prefix(layer), linear.name, config::kLatentWeight);
}

void add_linear(std::vector<TensorSpec>& tensors, const config::ModelConfig& model,
                std::int64_t layer, const config::LinearShape& linear) {
  const std::string name = weight_name(layer, linear);
  const bool dense = model.binarize == config::Binarize::kNone;
  tensors.push_back({name, {linear.outputs, linear.inputs}, dense ? Role::kDense : Role::kLatent});
  if (dense) return;
  const Shape scales = config::scale_shape(model.binarize, linear);
  tensors.push_back({config::scale_name(name), scales, Role::kScale});
  if (model.shift) tensors.push_back({config::shift_name(name), scales, Role::kShift});
}

void add_layer(std::vector<TensorSpec>& tensors, const config::ModelConfig& model,
               std::int64_t layer) {
  const auto norm = [&](const char* name) {
    tensors.push_back({config::layer_prefix(layer) + name, {model.hidden_size}});
  };
  const auto linears = config::decoder_linears(model);
  norm("input_layernorm.weight");
  for (std::size_t n = 0; n < linears.size(); ++n) {
    if (n == kFirstOfMlp) norm("post_attention_layernorm.weight");
    add_linear(tensors, model, layer, linears[n]);
  }
}

/// A tied alpha, which files hold once for each of its layers. `model` is resolved.
void check_tied_scales(const formats::ModelSource& source, const config::ModelConfig& model) {
  if (model.binarize != config::Binarize::kColumn || !model.tie_scales) return;
  const auto owners = config::scale_owners(model);
  const auto linears = config::decoder_linears(model);
  for (std::int64_t layer = 0; layer < model.num_hidden_layers; ++layer) {
    for (std::size_t n = 0; n < owners.size(); ++n) {
      if (owners[n] == n) continue;
      const std::string name = config::scale_name(weight_name(layer, linears[n]));
      const std::string owner = config::scale_name(weight_name(layer, linears[owners[n]]));
      std::vector<float> found(static_cast<std::size_t>(linears[n].inputs)), expected(found.size());
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

std::vector<TensorSpec> model_tensors(const config::ModelConfig& unresolved) {
  config::ModelConfig model = unresolved;
  config::resolve(model);
  std::vector<TensorSpec> tensors;
  tensors.push_back({config::kEmbedding, {model.vocab_size, model.hidden_size}});
  for (std::int64_t layer = 0; layer < model.num_hidden_layers; ++layer) {
    add_layer(tensors, model, layer);
  }
  tensors.push_back({config::kFinalNorm, {model.hidden_size}});
  if (!model.tie_word_embeddings) {
    tensors.push_back({config::kHead, {model.vocab_size, model.hidden_size}});
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
    if (!expected.contains(name) && !config::is_passed_over(name, model.tie_word_embeddings)) {
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
