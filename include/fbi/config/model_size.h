#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "fbi/config/run_config.h"

namespace fbi::config {

/// Parameters by what they cost: one bit, or a number each.
struct ModelSize {
  std::int64_t binarized = 0;  ///< weights of binarized linear layers
  /// Their alpha (a shared one once) and beta, as far as they are learned.
  std::int64_t scales = 0;
  std::int64_t dense = 0;  ///< embedding, head, norms; all linear layers in dense mode
  std::int64_t total() const { return binarized + scales + dense; }
};

/// A linear layer: [outputs, inputs].
struct LinearShape {
  std::int64_t outputs;
  std::int64_t inputs;
  std::string_view name = {};  ///< "self_attn.q_proj": published, behind layer_prefix
};

/// q, k, v, o, gate, up and down of one decoder layer of a resolved model.
std::array<LinearShape, 7> decoder_linears(const ModelConfig& model);
/// Number of alphas, and of betas where there are some; 0 when the layer is dense.
std::int64_t scale_count(Binarize binarize, const LinearShape& shape);
/// The shape that they are stored in: [1, inputs], [outputs, 1] or []. `binarize` is not none.
std::vector<std::int64_t> scale_shape(Binarize binarize, const LinearShape& shape);
/// The reverse: what a stored scale of this shape tells of the model, in whose config.json the
/// published checkpoints have no key `binarize`.
Binarize binarize_of_scale(const std::vector<std::int64_t>& shape);
/// Of each decoder linear, the first one that has the same alpha: itself, unless scales are tied.
std::array<std::size_t, 7> scale_owners(const ModelConfig& model);

/// Counts of a resolved model; a tied head is not counted twice.
ModelSize parameter_counts(const ModelConfig& model);

}  // namespace fbi::config
