#pragma once

#include "fbi/kernels/binary_matrix.h"
#include "fbi/ops/parameter_slot.h"

namespace fbi::ops {

/// How the kernels walk alpha and beta of a packed slot.
inline kernels::ScaleStrides scale_strides(const ParameterSlot& slot) {
  switch (slot.pattern) {
    case ScalePattern::kRow: return kernels::ScaleStrides::per_row();
    case ScalePattern::kSingle: return kernels::ScaleStrides::single();
    case ScalePattern::kColumn: break;
  }
  return kernels::ScaleStrides::per_column();
}

}  // namespace fbi::ops
