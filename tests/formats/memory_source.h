#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fbi/config/model_tensors.h"
#include "fbi/core/error.h"
#include "fbi/core/hash.h"
#include "fbi/core/random.h"
#include "fbi/formats/model_source.h"

namespace fbi::formats {

/// A model in memory, with values that a test may change.
class MemorySource final : public ModelSource {
 public:
  struct Tensor {
    std::vector<std::int64_t> shape;
    std::vector<float> values;
  };

  /// All tensors of an architecture: normal numbers of standard deviation 0.02, alpha about 0.02,
  /// beta around 0, norms around 1.
  explicit MemorySource(const config::ModelConfig& model) {
    for (const config::TensorSpec& spec : config::model_tensors(model)) {
      Tensor& tensor = tensors[spec.name];
      tensor.shape = spec.shape;
      tensor.values.resize(static_cast<std::size_t>(spec.numel()));
      const bool scale = spec.role == config::TensorSpec::Role::kScale;
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

}  // namespace fbi::formats
