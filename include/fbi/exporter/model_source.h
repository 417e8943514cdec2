#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fbi/config/run_config.h"
#include "fbi/formats/checkpoint_reader.h"
#include "fbi/kernels/binary_matrix.h"

namespace fbi::exporter {

/// Where the tensors of a model come from, by published name, as fp32 values.
class ModelSource {
 public:
  virtual ~ModelSource() = default;
  virtual std::string description() const = 0;  ///< for messages: the folder
  virtual std::vector<std::string> names() const = 0;
  /// nullopt when there is no such tensor.
  virtual std::optional<std::vector<std::int64_t>> shape(const std::string& name) const = 0;
  /// out has the tensor's number of elements. DataError when the tensor is absent or not floating
  /// point.
  virtual void read(const std::string& name, std::span<float> out) const = 0;
};

/// A folder with safetensors: Hugging Face model or native export.
std::unique_ptr<ModelSource> folder_source(const std::filesystem::path& directory);
/// The parameters of a checkpoint; the state of its optimizer is left out.
std::unique_ptr<ModelSource> checkpoint_source(std::unique_ptr<formats::CheckpointReader> reader);

/// One tensor that an architecture consists of.
struct TensorSpec {
  enum class Role { kDense, kLatent, kScale, kShift };
  std::string name;
  std::vector<std::int64_t> shape;
  Role role = Role::kDense;
  std::int64_t numel() const;
};

/// All tensors of an architecture under their published names, in the order in which they are
/// written. A latent weight `….weight` is followed by its `….wscale` and `….wbias`; a tied head is
/// left out.
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
/// hold, and a repeated tied head are passed over.
void check_tensors(const ModelSource& source, const config::ModelConfig& model);

}  // namespace fbi::exporter
