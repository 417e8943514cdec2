#include "distributed/rank_order.h"

#include <ATen/ops/maximum.h>

namespace fbi::distributed {

at::Tensor reduce_in_rank_order(const std::vector<at::Tensor>& parts, Reduce op) {
  at::Tensor result = parts.at(0).clone();
  for (std::size_t rank = 1; rank < parts.size(); ++rank) {
    switch (op) {
      case Reduce::kSum:
        result.add_(parts[rank]);
        break;
      case Reduce::kMax:
        at::maximum_out(result, result, parts[rank]);
        break;
    }
  }
  return result;
}

}  // namespace fbi::distributed
