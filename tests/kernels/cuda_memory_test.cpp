#include "fbi/kernels/cuda_memory.h"

#include "fbi/core/error.h"
#include "fbi/kernels/cuda_decode.h"
#include "kernels/cuda_support.h"
#include "support/expect_error.h"

namespace fbi::kernels::cuda {
namespace {

using CudaMemory = OnDevice;

std::vector<unsigned> download(const Queue& queue, const DeviceMemory& memory) {
  PinnedMemory host(memory.size());
  copy_to_host(host, memory.data(), memory.size(), queue.stream());
  queue.wait();
  std::vector<unsigned> values(memory.size() / sizeof(unsigned));
  std::memcpy(values.data(), host.data(), memory.size());
  return values;
}

TEST_F(CudaMemory, BeginsAsZeroAndTakesCopies) {
  const Queue queue;
  const DeviceMemory a(16, "a test"), b(16, "a test");
  EXPECT_EQ(download(queue, a), std::vector<unsigned>(4));
  const std::vector<unsigned> values = {1, 2, 3, 4};
  upload(a.data(), values.data(), 16);
  copy_on_device(b.data(), a.data(), 8, queue.stream());
  EXPECT_EQ(download(queue, b), (std::vector<unsigned>{1, 2, 0, 0}));
  EXPECT_EQ(DeviceMemory(0, "nothing").data(), nullptr);
}

TEST_F(CudaMemory, SaysWhatIsMissing) {
  test::expect_error<UsageError>([] { DeviceMemory(std::size_t{1} << 60, "the model"); },
                                 "the model needs 1152.9 PB", "are free", "--device cpu");
  EXPECT_EQ(DeviceMemory(4, "a test").size(), 4u);  // the error is forgotten
  EXPECT_EQ(why_no_device(), "");
  EXPECT_NE(device_name(), "");
}

TEST_F(CudaMemory, AGraphRepeatsWhatItRecorded) {
  const Queue queue;
  const DeviceMemory memory(16, "a test");
  PinnedMemory source(16);
  std::memset(source.data(), 0, 16);
  const Graph graph(queue, [&] { copy_to_device(memory.data(), source, 16, queue.stream()); });
  source.data()[0] = std::byte{5};  // read when it runs
  EXPECT_EQ(download(queue, memory)[0], 0u);
  graph.launch(queue);
  EXPECT_EQ(download(queue, memory)[0], 5u);
  source.data()[0] = std::byte{6};
  graph.launch(queue);
  EXPECT_EQ(download(queue, memory)[0], 6u);
  EXPECT_FALSE(Graph());
  EXPECT_TRUE(graph);
}

TEST_F(CudaMemory, ARecordingThatFailsIsAnError) {
  const Queue queue;
  test::expect_error<CudaError>([&] { Graph(queue, [&] { queue.wait(); }); }, "captur");
  test::expect_error<UsageError>([&] { Graph(queue, [] { throw UsageError("a reason"); }); },
                                 "a reason");
  const DeviceMemory memory(16, "a test");  // and the queue goes on
  EXPECT_EQ(download(queue, memory), std::vector<unsigned>(4));
}

}  // namespace
}  // namespace fbi::kernels::cuda
