#pragma once

#include "fbi/kernels/binary_matrix.h"
#include "fbi/ops/parameter_slot.h"

namespace fbi::ops {

/// How the kernels walk alpha and beta of a packed slot.
inline kernels::ScaleStrides scale_strides(const ParameterSlot& slot) {
  switch (slot.pattern) {
    case ScalePattern::kRow:
      return kernels::ScaleStrides::per_row();
    case ScalePattern::kSingle:
      return kernels::ScaleStrides::single();
    case ScalePattern::kColumn:
      break;
  }
  return kernels::ScaleStrides::per_column();
}

/// Shape under which alpha and beta are stored: [1, I], [O, 1] or [] (the published tensors).
inline std::vector<std::int64_t> scale_shape(const ParameterSlot& slot) {
  switch (slot.pattern) {
    case ScalePattern::kRow:
      return {slot.rows(), 1};
    case ScalePattern::kSingle:
      return {};
    case ScalePattern::kColumn:
      break;
  }
  return {1, slot.columns()};
}

}  // namespace fbi::ops
