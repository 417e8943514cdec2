#include "fbi/distributed/agreement.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "distributed/ranks.h"
#include "fbi/core/error.h"
#include "support/expect_error.h"

namespace fbi::distributed {
namespace {

using test::run_ranks;
using test::run_ranks_ok;

TEST(AllGatherText, GivesEveryRankAllTextsInOrder) {
  run_ranks_ok(3, [](Communicator& ranks) {
    const std::string texts[] = {"", std::string("a\0b", 3), std::string(1000, 'x')};
    const auto all = all_gather_text(ranks, texts[ranks.rank()]);
    EXPECT_EQ(all, (std::vector<std::string>{texts[0], texts[1], texts[2]}));
    EXPECT_EQ(all_gather_text(ranks, ""), std::vector<std::string>(3));
  });
  const auto alone = make_single_rank();
  EXPECT_EQ(all_gather_text(*alone, "me"), std::vector<std::string>{"me"});
}

TEST(RunTogether, ReturnsWhenAllSucceed) {
  run_ranks_ok(2, [](Communicator& ranks) {
    int calls = 0;
    run_together(ranks, [&] { ++calls; });
    EXPECT_EQ(calls, 1);
  });
}

TEST(RunTogether, AnErrorOfOneRankIsAnErrorOfItsKindOnAll) {
  const auto errors = run_ranks(3, [](Communicator& ranks) {
    run_together(ranks, [&] {
      if (ranks.rank() == 1) throw DiskError("disk of one is full");
    });
  });
  for (const auto& error : errors) {
    test::expect_error<DiskError>([&] { std::rethrow_exception(error); }, "disk of one is full");
  }
  test::expect_error<DiskError>([&] { std::rethrow_exception(errors[0]); }, "rank 1: ");
}

TEST(RunTogether, ForeignExceptionsReachOthersAsPeerErrors) {
  const auto errors = run_ranks(2, [](Communicator& ranks) {
    run_together(ranks, [&] {
      if (ranks.rank() == 0) throw std::runtime_error("odd");
    });
  });
  test::expect_error<std::runtime_error>([&] { std::rethrow_exception(errors[0]); }, "odd");
  test::expect_error<PeerError>([&] { std::rethrow_exception(errors[1]); }, "rank 0: odd");
}

TEST(RunTogether, TheGroupGoesOnAfterAnAgreedError) {
  run_ranks_ok(2, [](Communicator& ranks) {
    EXPECT_THROW(run_together(ranks, [] { throw UsageError("both"); }), UsageError);
    run_together(ranks, [] {});
  });
}

}  // namespace
}  // namespace fbi::distributed
