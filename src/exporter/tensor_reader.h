#pragma once

#include <vector>

#include "fbi/config/model_tensors.h"
#include "fbi/formats/model_source.h"
#include "fbi/formats/safetensors.h"

namespace fbi::exporter {

/// Reads tensors one at a time and refuses values that an export must not hold.
class TensorReader {
 public:
  TensorReader(const formats::ModelSource& source, formats::DType dtype)
      : source_(source), dtype_(dtype) {}

  /// Values that will be cast to the export's dtype. DataError when one is not finite or too large.
  std::vector<float> read_for_cast(const config::TensorSpec& tensor) const;
  /// Values of which only the sign is kept, or all of fp32. DataError when one is not finite.
  std::vector<float> read_finite(const config::TensorSpec& tensor) const;

 private:
  std::vector<float> read(const config::TensorSpec& tensor, float limit) const;
  [[noreturn]] void refuse(const config::TensorSpec& tensor, std::size_t index, float value) const;

  const formats::ModelSource& source_;
  formats::DType dtype_;
};

}  // namespace fbi::exporter
