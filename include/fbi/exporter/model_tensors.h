#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fbi/config/run_config.h"
#include "fbi/formats/model_source.h"
#include "fbi/kernels/binary_matrix.h"

namespace fbi::exporter {

/// One tensor that an architecture consists of.
struct TensorSpec {
  enum class Role { kDense, kLatent, kScale, kShift };
  std::string name;
  std::vector<std::int64_t> shape;
  Role role = Role::kDense;
  std::int64_t numel() const;
};

/// All tensors of an architecture under their published names, in the order in which they are
/// written. A latent weight `….weight` is followed by its `….wscale` and, unless model.shift is
/// false, `….wbias`; a tied alpha is there once for each of its layers; a tied head is left out.
std::vector<TensorSpec> model_tensors(const config::ModelConfig& model);

/// "….q_proj.weight" -> "….q_proj.wscale" or "….q_proj.wbias".
std::string scale_name(const std::string& weight);
std::string shift_name(const std::string& weight);

/// Shape of alpha and beta of a weight [rows, columns] and how they broadcast over it. `binarize`
/// is not none.
std::vector<std::int64_t> scale_shape(config::Binarize binarize, kernels::MatrixShape weight);
kernels::ScaleStrides scale_strides(config::Binarize binarize);

/// Compares names and shapes of a source with those of an architecture; all missing, unused and
/// misshapen tensors come in one DataError. `rotary_emb.inv_freq`, which the published checkpoints
/// hold, and a repeated tied head are passed over. Then DataError when layers with tied scales have
/// different ones.
void check_tensors(const formats::ModelSource& source, const config::ModelConfig& model);

}  // namespace fbi::exporter
