#pragma once

#include <cstddef>
#include <vector>

#include "exporter/export_folder.h"
#include "exporter/tensor_reader.h"
#include "fbi/config/run_config.h"
#include "fbi/exporter/fold.h"

namespace fbi::exporter {

/// The tensors of the stock LLaMA that a model folds into, read one at a time in folding.dtype.
class FoldedTensors final : public FolderContent {
 public:
  /// `model` is resolved.
  FoldedTensors(const formats::ModelSource& source, const config::ModelConfig& model,
                const Folding& folding);
  /// Without scales and shifts.
  const std::vector<config::TensorSpec>& tensors() const override { return tensors_; }
  formats::TensorView layout(const config::TensorSpec& tensor) const override {
    return {tensor.name, folding_.dtype, tensor.shape, {}};
  }
  std::vector<std::byte> encode(const config::TensorSpec& tensor, ZeroCounts& zeros) const override;

 private:
  ZeroCounts fold_matrix(const config::TensorSpec& tensor, std::span<std::byte> out) const;

  const formats::ModelSource& source_;
  config::Binarize binarize_;
  bool shift_;
  Folding folding_;
  TensorReader reader_;
  std::vector<config::TensorSpec> tensors_;
};

}  // namespace fbi::exporter
