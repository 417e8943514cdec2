#include "exporter/tensor_reader.h"

#include <cmath>
#include <string>

#include "fbi/core/error.h"
#include "fbi/exporter/fold.h"

namespace fbi::exporter {
namespace {

std::string position_text(std::size_t index, const std::vector<std::int64_t>& shape) {
  std::string text;
  auto rest = static_cast<std::int64_t>(index);
  for (auto extent = shape.rbegin(); extent != shape.rend(); ++extent) {
    text = concat(rest % *extent, text.empty() ? "" : ", ", text);
    rest /= *extent;
  }
  return "[" + text + "]";
}

}  // namespace

std::vector<float> TensorReader::read_for_cast(const config::TensorSpec& tensor) const {
  return read(tensor, overflow_limit(dtype_));
}

std::vector<float> TensorReader::read_finite(const config::TensorSpec& tensor) const {
  return read(tensor, overflow_limit(formats::DType::kF32));
}

std::vector<float> TensorReader::read(const config::TensorSpec& tensor, float limit) const {
  std::vector<float> values(static_cast<std::size_t>(tensor.numel()));
  source_.read(tensor.name, values);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!(std::abs(values[i]) < limit)) refuse(tensor, i, values[i]);
  }
  return values;
}

void TensorReader::refuse(const config::TensorSpec& tensor, std::size_t index, float value) const {
  const std::string found = concat(tensor.name, position_text(index, tensor.shape), " is ", value,
                                   " in ", source_.description());
  if (!std::isfinite(value)) {
    throw DataError(concat(found, "; a model with values that are not finite is not exported"));
  }
  throw DataError(concat(found, ", too large for ", formats::to_string(dtype_),
                         "; export it in another dtype"));
}

}  // namespace fbi::exporter
