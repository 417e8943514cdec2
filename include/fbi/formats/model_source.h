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

namespace fbi::formats {

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
/// A packed export of `model`: its latent weights are +1 and -1, of which only the signs are known.
std::unique_ptr<ModelSource> packed_source(const std::filesystem::path& directory,
                                           const config::ModelConfig& model);
/// The parameters of a checkpoint; the state of its optimizer is left out.
std::unique_ptr<ModelSource> checkpoint_source(std::unique_ptr<CheckpointReader> reader);

/// Scales may be absent as a whole where a dense model is to start a binarized one.
enum class Scales { kRequired, kOptional };

/// Compares names and shapes of a source with those of an architecture, without reading values; all
/// missing, misshapen and unused tensors (config::is_passed_over: none of these) come in one
/// DataError, at most 20 of a kind.
void check_tensors(const ModelSource& source, const config::ModelConfig& model, Scales scales);

/// XXH3-128 that tells the weights of such a folder, or the content of a checkpoint, from others
/// without reading them: from the hashes in the manifest; else from the tensors' names, types,
/// shapes and first and last 64 KiB, in whatever files they lie.
std::string content_hash(const std::filesystem::path& directory);

}  // namespace fbi::formats
