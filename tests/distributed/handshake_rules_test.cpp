#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "distributed/handshake.h"

namespace fbi::distributed {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

Hello hello(int rank, int world_size, const std::string& config = "same") {
  return {
      rank, world_size, "node" + std::to_string(rank / 2), 100 + rank, {{"config hash", config}},
      ""};
}

TEST(FindDisagreement, NoneWhenAllAreThereInAnyOrder) {
  EXPECT_EQ(find_disagreement({hello(2, 3), hello(0, 3), hello(1, 3)}, 3, true), "");
  EXPECT_EQ(find_disagreement({hello(0, 1)}, 1, true), "");
}

TEST(FindDisagreement, MissingRanksAreNamedOnceTimeIsUp) {
  const std::vector<Hello> some = {hello(2, 4), hello(0, 4)};
  EXPECT_EQ(find_disagreement(some, 4, false), "");
  EXPECT_THAT(find_missing(some, 4), HasSubstr("only 2 arrived in time; missing: 1, 3"));
  EXPECT_EQ(find_missing(some, 1), "");
}

TEST(FindDisagreement, AnotherWorldSizeAndADoubleRankAreNamedAtOnce) {
  EXPECT_THAT(find_disagreement({hello(0, 4), hello(3, 2)}, 4, false),
              AllOf(HasSubstr("rank 3 (process 103 on node1)"), HasSubstr("one of 2 ranks"),
                    HasSubstr("one of 4")));
  Hello twin = hello(1, 4);
  twin.pid = 77;
  EXPECT_THAT(find_disagreement({hello(1, 4), hello(0, 4), twin}, 4, false),
              AllOf(HasSubstr("process 101 on node0"), HasSubstr("process 77 on node0"),
                    HasSubstr("both are rank 1")));
}

TEST(FindDisagreement, TwoRanksOnOneGpuAreNamedAtOnce) {
  // Two on each node.
  std::vector<Hello> ranks = {hello(0, 4), hello(1, 4), hello(2, 4), hello(3, 4)};
  for (int rank = 0; rank < 4; ++rank)
    ranks[static_cast<std::size_t>(rank)].gpu = "0000:0" + std::to_string(rank % 2);
  EXPECT_EQ(find_disagreement(ranks, 4, true), "");
  ranks[3].gpu = "0000:00";
  EXPECT_THAT(find_disagreement(ranks, 4, false),
              AllOf(HasSubstr("rank 2 (process 102 on node1) and rank 3 (process 103 on node1) "
                              "both compute on GPU 0000:00"),
                    HasSubstr("CUDA_VISIBLE_DEVICES")));
}

TEST(FindDisagreement, TheOddOneIsNamedEvenIfItIsRankZero) {
  EXPECT_THAT(find_disagreement({hello(0, 3), hello(1, 3, "other"), hello(2, 3)}, 3, true),
              AllOf(HasSubstr("config hash"), HasSubstr("rank 1 (process 101 on node0) has other"),
                    HasSubstr("most have same"), Not(HasSubstr("rank 0"))));
  EXPECT_THAT(find_disagreement({hello(0, 3, "other"), hello(1, 3), hello(2, 3)}, 3, true),
              HasSubstr("rank 0 (process 100 on node0) has other"));
  EXPECT_THAT(find_disagreement({hello(0, 2), hello(1, 2, "other")}, 2, true), HasSubstr("rank 1"))
      << "between two, rank 0 counts";
  Hello silent = hello(1, 2);
  silent.must_agree.clear();
  EXPECT_THAT(find_disagreement({hello(0, 2), silent}, 2, true), HasSubstr("has nothing"));
}

}  // namespace
}  // namespace fbi::distributed
