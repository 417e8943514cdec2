#include "fbi/distributed/shard_plan.h"

#include <algorithm>

#include "fbi/core/error.h"

namespace fbi::distributed {

ShardPlan::ShardPlan(std::int64_t rows, int size) : rows_(rows), size_(size), block_rows_(0) {
  if (rows < 0 || size < 1) {
    throw UsageError(concat("shard plan: expected rows >= 0 over at least 1 rank, found ", rows,
                            " rows over ", size, " ranks"));
  }
  block_rows_ = rows / size + (rows % size != 0);  // rows + size - 1 could overflow
}

RowRange ShardPlan::range(int rank) const {
  if (rank < 0 || rank >= size_) {
    throw UsageError(concat("shard plan: expected a rank in [0, ", size_, "), found ", rank));
  }
  return {std::min(rows_, rank * block_rows_), std::min(rows_, (rank + 1) * block_rows_)};
}

RowRange range(std::int64_t rows, int rank, int size) {
  return ShardPlan(rows, size).range(rank);
}

}  // namespace fbi::distributed
