#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "distributed/ranks.h"
#include "fbi/core/error.h"
#include "support/expect_error.h"

namespace fbi::distributed {
namespace {

using test::run_ranks;
using test::run_ranks_ok;

TEST(ThreadGroup, CollectivesOverOneTwoAndFourRanks) {
  for (const int size : {1, 2, 4}) {
    run_ranks_ok(size, [&](Communicator& ranks) {
      const int me = ranks.rank();
      ASSERT_EQ(ranks.size(), size);
      const at::Tensor mine = at::arange(3, at::kFloat).add(me);

      at::Tensor all = at::empty({size, 3});
      ranks.all_gather(all, mine)->wait();
      for (int rank = 0; rank < size; ++rank) {
        EXPECT_TRUE(at::equal(all[rank], at::arange(3, at::kFloat).add(rank)));
      }
      at::Tensor sum = mine.clone();
      ranks.all_reduce(sum, Reduce::kSum)->wait();
      EXPECT_TRUE(at::equal(sum, all.sum(0)));
      at::Tensor extreme = mine.clone();
      ranks.all_reduce(extreme, Reduce::kMax)->wait();
      EXPECT_TRUE(at::equal(extreme, all[size - 1]));

      at::Tensor part = at::empty({2});
      ranks.reduce_scatter(part, at::arange(2 * size, at::kFloat).mul(me + 1))->wait();
      const float factor = static_cast<float>(size * (size + 1) / 2);
      EXPECT_TRUE(at::equal(part, at::arange(2, at::kFloat).add(2 * me).mul(factor)));

      ranks.barrier();
    });
  }
}

TEST(ThreadGroup, SumsInRankOrder) {
  // 2^24 + 1 rounds to 2^24 in fp32, so only ((1 + 1) + 2^24) gives 2^24 + 2.
  const float values[] = {1.0f, 1.0f, 16777216.0f};
  for (int repeat = 0; repeat < 50; ++repeat) {
    run_ranks_ok(3, [&](Communicator& ranks) {
      at::Tensor sum = at::full({1}, values[ranks.rank()], at::kFloat);
      ranks.all_reduce(sum, Reduce::kSum)->wait();
      EXPECT_EQ(sum.item<float>(), 16777218.0f);
      at::Tensor part = at::empty({1});
      ranks.reduce_scatter(part, at::full({3}, values[ranks.rank()], at::kFloat))->wait();
      EXPECT_EQ(part.item<float>(), 16777218.0f);
    });
  }
}

TEST(ThreadGroup, InPlaceAllGather) {
  run_ranks_ok(3, [](Communicator& ranks) {
    at::Tensor all = at::zeros({3, 2});
    const at::Tensor mine = all[ranks.rank()];
    mine.fill_(ranks.rank() + 1);
    ranks.all_gather(all, mine)->wait();
    EXPECT_TRUE(at::equal(all, at::tensor({1.f, 1.f, 2.f, 2.f, 3.f, 3.f}).view({3, 2})));
  });
}

TEST(ThreadGroup, ARankThatLeavesEndsTheOthers) {
  const auto errors = run_ranks(3, [](Communicator& ranks) {
    if (ranks.rank() == 1) throw DiskError("mine");
    ranks.barrier();
  });
  for (const int rank : {0, 2}) {
    test::expect_error<PeerError>([&] { std::rethrow_exception(errors[rank]); }, "rank 1 left");
  }
}

TEST(ThreadGroup, DifferentCallsAreErrorsOnAllRanks) {
  const auto errors = run_ranks(2, [](Communicator& ranks) {
    at::Tensor tensor = at::zeros({ranks.rank() + 1});
    ranks.all_reduce(tensor, Reduce::kSum)->wait();
  });
  for (const auto& error : errors) {
    test::expect_error<UsageError>([&] { std::rethrow_exception(error); }, "rank 0 all_reduce",
                                   "1 x Float", "2 x Float");
  }
  const auto wrong_size = run_ranks(2, [](Communicator& ranks) {
    at::Tensor output = at::zeros({3});
    ranks.all_gather(output, at::zeros({2}))->wait();
  });
  test::expect_error<UsageError>([&] { std::rethrow_exception(wrong_size[0]); }, "3 x Float",
                                 "2 times 2 x Float");
  test::expect_error<UsageError>([] { make_thread_group(0); }, "found 0");
}

}  // namespace
}  // namespace fbi::distributed
