#include "fbi/ops/device.h"

#include <gtest/gtest.h>

#include "fbi/core/error.h"
#include "support/expect_error.h"

namespace fbi::ops {
namespace {

TEST(GpuOfRank, EachRankOfAMachineHasItsOwn) {
  for (int rank = 0; rank < 4; ++rank) EXPECT_EQ(gpu_of_rank(rank, 4), rank);
}

TEST(GpuOfRank, TheOnlyOneThatASchedulerShowsIsThisRanks) {
  EXPECT_EQ(gpu_of_rank(3, 1), 0);
}

TEST(GpuOfRank, ARankBeyondTheLastGpuIsToldWhatToDo) {
  test::expect_error<UsageError>([] { gpu_of_rank(4, 4); }, "local rank 4 has no GPU", "sees 4",
                                 "--ntasks-per-node", "CUDA_VISIBLE_DEVICES");
}

}  // namespace
}  // namespace fbi::ops
