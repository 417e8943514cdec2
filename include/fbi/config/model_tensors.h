#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fbi/config/run_config.h"

namespace fbi::config {

/// One tensor that an architecture consists of.
struct TensorSpec {
  enum class Role { kDense, kLatent, kScale, kShift };
  std::string name;
  std::vector<std::int64_t> shape;
  Role role = Role::kDense;
  std::int64_t numel() const;
  /// No scale or shift.
  bool is_weight() const { return role == Role::kDense || role == Role::kLatent; }
};

/// All tensors of an architecture under their published names, in the order in which they are
/// written. A latent weight `….weight` is followed by its `….wscale` and, unless model.shift is
/// false, `….wbias`; a tied alpha is there once for each of its layers; a tied head is left out.
std::vector<TensorSpec> model_tensors(const ModelConfig& model);

}  // namespace fbi::config
