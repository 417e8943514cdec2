#pragma once

#include <cstddef>
#include <vector>

#include "exporter/tensor_reader.h"
#include "fbi/config/run_config.h"
#include "fbi/exporter/fold.h"

namespace fbi::exporter {

/// The tensors of the stock LLaMA that a model folds into, read one at a time in folding.dtype.
class FoldedTensors {
 public:
  /// `model` is resolved.
  FoldedTensors(const formats::ModelSource& source, const config::ModelConfig& model,
                const Folding& folding);
  /// Without scales and shifts, in the order in which they are written.
  const std::vector<TensorSpec>& list() const { return tensors_; }
  /// DataError when a value is not finite or does not fit the dtype. Adds to `zeros`.
  std::vector<std::byte> read(const TensorSpec& tensor, ZeroCounts& zeros) const;

 private:
  ZeroCounts fold_matrix(const TensorSpec& tensor, std::span<std::byte> out) const;

  const formats::ModelSource& source_;
  config::Binarize binarize_;
  bool shift_;
  Folding folding_;
  TensorReader reader_;
  std::vector<TensorSpec> tensors_;
};

}  // namespace fbi::exporter
