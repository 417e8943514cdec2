#pragma once

#include <cstdint>

#include "fbi/core/error.h"

namespace fbi::eval {

/// What ChoiceOptions and PerplexityOptions have in common. UsageError.
inline void check_batch_and_part(std::int64_t batch, int part, int parts) {
  if (batch < 1) throw UsageError(concat("batch must be at least 1, found ", batch));
  if (parts < 1 || part < 0 || part >= parts)
    throw UsageError(
        concat("part must be in [0, parts), found part ", part, " of ", parts, " parts"));
}

}  // namespace fbi::eval
