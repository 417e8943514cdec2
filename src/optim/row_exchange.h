#pragma once

#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "fbi/distributed/communicator.h"
#include "fbi/distributed/shard_plan.h"

/// Matrices whose rows are spread over ranks (ShardPlan) travel many at a time, in one buffer [ranks, blocks of all matrices one
/// after the other].
namespace fbi::optim {

/// One matrix of an exchange: all rows on this rank, and the rows that it owns.
struct RowExchangePart {
  at::Tensor whole;  ///< [O, C], contiguous
  at::Tensor own;    ///< [rows of this rank, C], contiguous; may lie inside `whole`
};

/// own += Σ over ranks of their whole, for all parts with one reduce_scatter. While it is under way `whole` may be used again.
class RowReduction {
 public:
  /// Starts it. `wire` is the type on the way: fp32 or bf16.
  RowReduction(distributed::Communicator& communicator, std::vector<RowExchangePart> parts, at::ScalarType wire);
  /// Waits for the sums and adds them.
  void finish();

 private:
  std::vector<RowExchangePart> parts_;
  int size_;
  at::Tensor sent_, received_;
  std::unique_ptr<distributed::Work> work_;
};

/// whole = the rows of all ranks, for all parts with one all_gather; dtype as it is.
void gather_rows(distributed::Communicator& communicator, const std::vector<RowExchangePart>& parts,
                 distributed::Payload payload);

}  // namespace fbi::optim
