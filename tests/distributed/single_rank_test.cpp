#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "fbi/core/error.h"
#include "fbi/distributed/communicator.h"

namespace fbi::distributed {
namespace {

TEST(SingleRank, EveryCollectiveIsTheIdentity) {
  const auto communicator = make_single_rank();
  EXPECT_EQ(communicator->rank(), 0);
  EXPECT_EQ(communicator->size(), 1);
  const at::Tensor input = at::arange(6, at::kFloat).view({2, 3});
  for (const Reduce op : {Reduce::kSum, Reduce::kMax}) {
    at::Tensor tensor = input.clone();
    communicator->all_reduce(tensor, op)->wait();
    EXPECT_TRUE(at::equal(tensor, input));
  }
  at::Tensor output = at::zeros({2, 3});
  communicator->reduce_scatter(output, input)->wait();
  EXPECT_TRUE(at::equal(output, input));
  output.zero_();
  communicator->all_gather(output, input)->wait();
  EXPECT_TRUE(at::equal(output, input));
  communicator->barrier();
}

TEST(SingleRank, OutputMayBeTheInputItself) {
  const auto communicator = make_single_rank();
  at::Tensor tensor = at::arange(4, at::kFloat);
  communicator->reduce_scatter(tensor, tensor)->wait();
  communicator->all_gather(tensor, tensor)->wait();
  EXPECT_TRUE(at::equal(tensor, at::arange(4, at::kFloat)));
}

TEST(SingleRank, RefusesOtherSizesAndDtypes) {
  const auto communicator = make_single_rank();
  at::Tensor four = at::zeros({4}), five = at::zeros({5}), bytes = at::zeros({4}, at::kByte);
  EXPECT_THROW(communicator->all_gather(four, five), UsageError);
  EXPECT_THROW(communicator->reduce_scatter(four, bytes), UsageError);
}

}  // namespace
}  // namespace fbi::distributed
