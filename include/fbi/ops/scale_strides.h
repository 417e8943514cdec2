#pragma once

#include <cstdint>
#include <vector>

#include "fbi/kernels/binary_matrix.h"
#include "fbi/ops/parameter_slot.h"

namespace fbi::ops {

/// How the kernels walk alpha and beta of a packed slot.
inline kernels::ScaleStrides scale_strides(const ParameterSlot& slot) {
  return kernels::ScaleStrides::of(slot.pattern);
}

/// Shape under which alpha and beta are stored: [1, I], [O, 1] or [] (the published tensors).
inline std::vector<std::int64_t> scale_shape(ScalePattern pattern, kernels::MatrixShape weight) {
  switch (pattern) {
    case ScalePattern::kRow:
      return {weight.rows, 1};
    case ScalePattern::kSingle:
      return {};
    case ScalePattern::kColumn:
      break;
  }
  return {1, weight.columns};
}
inline std::vector<std::int64_t> scale_shape(const ParameterSlot& slot) {
  return scale_shape(slot.pattern, {slot.rows(), slot.columns()});
}

}  // namespace fbi::ops
