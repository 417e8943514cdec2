#pragma once

#include <cstdint>

#include "fbi/core/parallel.h"

namespace fbi::kernels {

/// out[i] = x[i] rounded to bfloat16, nearest even; NaN becomes 0x7FC0, subnormals are kept.
void to_bfloat16(const float* x, std::int64_t count, std::uint16_t* out, ParallelFor& parallel);

/// out[i] = x[i], exactly.
void from_bfloat16(const std::uint16_t* x, std::int64_t count, float* out, ParallelFor& parallel);

}  // namespace fbi::kernels
