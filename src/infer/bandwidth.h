#pragma once

#include <cstdint>

#include "fbi/core/parallel.h"

namespace fbi::infer {

/// Bytes per second at which these threads read a buffer of that size over and over: the best of
/// several passes.
double read_bandwidth(std::uint64_t bytes, ParallelFor& parallel);

}  // namespace fbi::infer
