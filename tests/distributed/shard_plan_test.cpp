#include "fbi/distributed/shard_plan.h"

#include <gtest/gtest.h>

#include <limits>

#include "fbi/core/error.h"

namespace fbi::distributed {
namespace {

TEST(ShardPlan, CoversEveryRowOnceInRankOrder) {
  for (std::int64_t rows = 0; rows <= 40; ++rows) {
    for (int size = 1; size <= 12; ++size) {
      const ShardPlan plan(rows, size);
      std::int64_t next = 0;
      for (int rank = 0; rank < size; ++rank) {
        const RowRange range = plan.range(rank);
        EXPECT_EQ(range.begin, next) << rows << " rows, rank " << rank << " of " << size;
        EXPECT_GE(range.rows(), 0);
        EXPECT_LE(range.rows(), plan.block_rows());
        next = range.end;
      }
      EXPECT_EQ(next, rows);
      const std::int64_t padding = plan.block_rows() * size - rows;
      EXPECT_GE(padding, 0);
      EXPECT_LT(padding, size) << "less than one row per rank";
    }
  }
}

TEST(ShardPlan, OneRankOwnsAll) {
  EXPECT_EQ(ShardPlan(2049, 1).range(0), (RowRange{0, 2049}));
  EXPECT_EQ(ShardPlan(2049, 1).block_rows(), 2049);
}

TEST(ShardPlan, ExactDivisionNeedsNoPadding) {
  const ShardPlan plan(12, 4);
  EXPECT_EQ(plan.block_rows(), 3);
  EXPECT_EQ(plan.range(3), (RowRange{9, 12}));
}

TEST(ShardPlan, LastRanksMayBeShortOrEmpty) {
  EXPECT_EQ(range(10, 3, 4), (RowRange{9, 10}));
  EXPECT_EQ(range(9, 3, 4), (RowRange{9, 9}));
  EXPECT_EQ(range(2, 1, 4), (RowRange{1, 2}));
  EXPECT_TRUE(range(2, 2, 4).empty());
  EXPECT_TRUE(range(0, 0, 4).empty());
}

TEST(ShardPlan, HugeRowCountsDoNotOverflow) {
  const std::int64_t rows = std::numeric_limits<std::int64_t>::max() / 2;
  EXPECT_EQ(range(rows, 6, 7).end, rows);
}

TEST(ShardPlan, RefusesWhatCannotBe) {
  EXPECT_THROW(ShardPlan(-1, 2), UsageError);
  EXPECT_THROW(ShardPlan(4, 0), UsageError);
  EXPECT_THROW(ShardPlan(4, 2).range(2), UsageError);
  EXPECT_THROW(ShardPlan(4, 2).range(-1), UsageError);
}

}  // namespace
}  // namespace fbi::distributed
