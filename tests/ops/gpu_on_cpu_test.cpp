#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>

// The emulated GPUs themselves: they must find what the tests on them rely on them to find.
namespace {

const at::Device kGpu(at::kCUDA, 0), kOther(at::kCUDA, 1);

at::Tensor numbers(at::Device device) {
  return at::arange(12, at::TensorOptions().dtype(at::kFloat).device(device)).view({3, 4});
}

TEST(GpuOnCpu, OperationsGiveWhatTheCpuGives) {
  const auto all = [](at::Device device) {
    const at::Tensor x = numbers(device), part = x.slice(1, 1, 3);
    part.mul_(2);  // a view
    return at::cat({x.t().mm(x), part.t().sum(1, true).expand({2, 4})}).cpu();
  };
  EXPECT_TRUE(all(kGpu).equal(all(at::kCPU)));
  EXPECT_EQ(numbers(kOther).sum().item<float>(), 66);
  EXPECT_EQ(numbers(kOther).device(), kOther);
}

TEST(GpuOnCpu, TensorsOfDifferentDevicesAreRefused) {
  EXPECT_THROW(numbers(kGpu).add(numbers(at::kCPU)), c10::Error);
  EXPECT_THROW(numbers(kGpu).add(numbers(kOther)), c10::Error);
  EXPECT_EQ(numbers(kGpu).add(at::ones({})).sum().item<float>(), 78) << "a number may come along";
}

TEST(GpuOnCpu, TheProcessorCannotTouchATensor) {
  const at::Tensor x = numbers(kGpu);
  EXPECT_DEATH(*static_cast<volatile float*>(x.data_ptr()) = 1, "memory of the emulated GPU");
}

TEST(GpuOnCpu, CopiesToTheHostComeWhenTheyAreWaitedFor) {
  const c10::impl::VirtualGuardImpl gpu(at::kCUDA);
  c10::Event event(at::kCUDA);
  const at::Tensor host = numbers(kGpu).to(at::kCPU, /*non_blocking=*/true);
  event.record(gpu.getStream(kGpu));
  EXPECT_FALSE(host.equal(numbers(at::kCPU)));
  event.synchronize();
  EXPECT_TRUE(host.equal(numbers(at::kCPU)));
}

TEST(GpuOnCpu, PinnedMemoryMustStayAsItIsUntilItIsCopied) {
  const at::Tensor host = at::empty({4}, at::TensorOptions().pinned_memory(true)).fill_(1);
  const at::Tensor copy = host.to(kGpu, /*non_blocking=*/true);
  host.fill_(2);
  EXPECT_THROW(copy.cpu(), std::logic_error);
}

TEST(GpuOnCpu, ProductsThatCuBlasLacksAreRefused) {
  const at::Tensor half = numbers(kGpu).to(at::kHalf);
  EXPECT_EQ(at::mm(half.t(), half, at::kFloat).scalar_type(), at::kFloat);
  EXPECT_THROW(at::mm(half.t(), half, at::kBFloat16), c10::Error);
  EXPECT_THROW(at::mm(half.t(), numbers(kGpu), at::kFloat), c10::Error);
}

}  // namespace
