// The NCCL form on one GPU: NCCL refuses two ranks on one device, so that this is what a machine
// with a single GPU can test.
#include <ATen/Context.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include "distributed/free_port.h"
#include "fbi/distributed/process_group.h"

namespace fbi::distributed {
namespace {

class Nccl : public testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "needs a GPU";
    const Rendezvous place{0, 1, 0, "127.0.0.1", test::free_port(), "test"};
    ranks_ = make_nccl_group(place, device_);
  }

  at::Tensor numbers(at::Device device) const {
    return at::arange(12, at::TensorOptions().dtype(at::kFloat)).to(device);
  }

  at::Device device_ = at::Device(at::kCUDA, 0);
  std::unique_ptr<Communicator> ranks_;
};

TEST_F(Nccl, OneRankIsTheIdentityForTensorsOfGpuAndCpu) {
  for (const at::Device device : {device_, at::Device(at::kCPU)}) {
    const at::Tensor expected = numbers(device);
    at::Tensor tensor = numbers(device), output = at::empty({12}, expected.options());
    ranks_->all_reduce(tensor, Reduce::kSum)->wait();
    EXPECT_TRUE(tensor.equal(expected));
    ranks_->reduce_scatter(output, tensor)->wait();
    EXPECT_TRUE(output.equal(expected));
    output.zero_();
    ranks_->all_gather(output, tensor)->wait();
    EXPECT_TRUE(output.equal(expected));
  }
  ranks_->barrier();
}

}  // namespace
}  // namespace fbi::distributed
