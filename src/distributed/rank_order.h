#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "fbi/distributed/communicator.h"

namespace fbi::distributed {

/// parts[0] op parts[1] op … from left to right, in their dtype: the order that makes reductions of
/// groups of threads and of Gloo equal.
at::Tensor reduce_in_rank_order(const std::vector<at::Tensor>& parts, Reduce op);

}  // namespace fbi::distributed
