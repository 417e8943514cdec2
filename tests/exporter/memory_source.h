#pragma once

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "exporter/model_tensors.h"
#include "fbi/core/error.h"
#include "fbi/core/hash.h"
#include "fbi/core/random.h"

namespace fbi::exporter {

/// A model in memory, with values that a test may change.
class MemorySource final : public formats::ModelSource {
 public:
  struct Tensor {
    std::vector<std::int64_t> shape;
    std::vector<float> values;
  };

  /// All tensors of an architecture: normal numbers of standard deviation 0.02, alpha about 0.02,
  /// beta around 0, norms around 1.
  explicit MemorySource(const config::ModelConfig& model) {
    for (const TensorSpec& spec : model_tensors(model)) {
      Tensor& tensor = tensors[spec.name];
      tensor.shape = spec.shape;
      tensor.values.resize(static_cast<std::size_t>(spec.numel()));
      const bool scale = spec.role == TensorSpec::Role::kScale;
      const bool norm = spec.name.ends_with("norm.weight");
      // Layers with tied scales have those of the first.
      std::string name = spec.name;
      for (const char* member : {"self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj"}) {
        const auto at = name.find(member);
        if (!scale || !model.tie_scales || at == std::string::npos) continue;
        name.replace(at, std::string(member).size(),
                     name.find("mlp") == std::string::npos ? "self_attn.q_proj" : "mlp.gate_proj");
      }
      fill_normal(tensor.values, 1, hash64(name), 0,
                  norm    ? 1.0
                  : scale ? 0.02
                          : 0.0,
                  scale ? 0.003 : 0.02);
    }
  }

  std::string description() const override { return "MEMORY"; }
  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const auto& [name, tensor] : tensors) all.push_back(name);
    return all;
  }
  std::optional<std::vector<std::int64_t>> shape(const std::string& name) const override {
    const auto found = tensors.find(name);
    if (found == tensors.end()) return std::nullopt;
    return found->second.shape;
  }
  void read(const std::string& name, std::span<float> out) const override {
    const auto& values = tensors.at(name).values;
    if (values.size() != out.size()) throw UsageError("wrong size");
    std::copy(values.begin(), values.end(), out.begin());
  }
  std::vector<float>& values(const std::string& name) { return tensors.at(name).values; }

  std::map<std::string, Tensor> tensors;
};

/// Every size differs from every other, so that no two axes can be confused.
inline config::ModelConfig small_model(config::Binarize binarize = config::Binarize::kColumn) {
  config::ModelConfig model;
  model.vocab_size = 29;
  model.hidden_size = 12;
  model.intermediate_size = 20;
  model.num_hidden_layers = 2;
  model.num_attention_heads = 4;
  model.num_key_value_heads = 2;
  model.head_dim = 4;
  model.max_position_embeddings = 32;
  model.binarize = binarize;
  return model;
}

/// With tied scales and without shifts.
inline config::ModelConfig tied_model() {
  config::ModelConfig model = small_model();
  model.tie_scales = true;
  model.shift = false;
  return model;
}

}  // namespace fbi::exporter
