#pragma once

#include <cstddef>
#include <filesystem>
#include <vector>

#include "exporter/model_card.h"
#include "fbi/config/model_tensors.h"
#include "fbi/exporter/export.h"
#include "fbi/formats/safetensors.h"

namespace fbi::exporter {

/// The tensors of a kind of model folder, each as it is stored.
class FolderContent {
 public:
  virtual ~FolderContent() = default;
  /// In the order in which they are written.
  virtual const std::vector<config::TensorSpec>& tensors() const = 0;
  /// Name, type and shape in the file; no bytes.
  virtual formats::TensorView layout(const config::TensorSpec& tensor) const = 0;
  /// DataError when a value is not finite or does not fit the type. Adds to `zeros`.
  virtual std::vector<std::byte> encode(const config::TensorSpec& tensor,
                                        ZeroCounts& zeros) const = 0;
};

/// Writes a folder of safetensors files with all that belongs to it. `model` is resolved; `kind` is
/// no GGUF.
StagedExport export_folder(const formats::ModelSource& source, const config::ModelConfig& model,
                           const FolderContent& content, ExportKind kind, const Folding& folding,
                           const std::filesystem::path& target, const ExportOptions& options);

}  // namespace fbi::exporter
