#pragma once

#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "fbi/distributed/communicator.h"

/// Matrices whose rows are spread over ranks (ShardPlan) travel many at a time, in one buffer
/// [ranks, blocks of all matrices one after the other].
namespace fbi::distributed {

/// One matrix of an exchange: all rows on this rank, and the rows that it owns.
struct RowExchangePart {
  at::Tensor whole;  ///< [O, C], contiguous
  at::Tensor own;    ///< [rows of this rank, C], contiguous; may lie inside `whole`
};

/// own += Σ over ranks of their whole, for all parts with one reduce_scatter. While it is under way
/// `whole` may be used again.
class RowReduction {
 public:
  /// Starts it. `wire` is the type on the way: fp32 or bf16.
  RowReduction(Communicator& communicator, std::vector<RowExchangePart> parts, at::ScalarType wire);
  /// Waits for the sums and adds them.
  void finish();

 private:
  std::vector<RowExchangePart> parts_;
  int size_;
  at::Tensor sent_, received_;
  std::unique_ptr<Work> work_;
};

/// whole = the rows of all ranks, for all parts with one all_gather; dtype as it is. A single
/// matrix whose rows divide evenly goes without a buffer.
class RowGather {
 public:
  /// Starts it. Until finish() `own` must stay as it is and `whole` is not defined.
  RowGather(Communicator& communicator, std::vector<RowExchangePart> parts, Payload payload);
  void finish();

 private:
  std::vector<RowExchangePart> parts_;
  int rank_, size_;
  at::Tensor sent_, received_;  ///< undefined without a buffer
  std::unique_ptr<Work> work_;
};

}  // namespace fbi::distributed
