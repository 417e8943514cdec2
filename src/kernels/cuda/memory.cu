#include "fbi/kernels/cuda_memory.h"

#include <exception>

#include "fbi/core/error.h"
#include "fbi/core/human.h"
#include "kernels/cuda/launch.h"

namespace fbi::kernels::cuda {
namespace {

cudaStream_t as_stream(Stream stream) {
  return static_cast<cudaStream_t>(stream);
}

void copy(void* target, const void* source, std::size_t bytes, cudaMemcpyKind kind, Stream stream) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(target, source, bytes, kind, as_stream(stream)), "copy");
}

}  // namespace

std::string why_no_device() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status == cudaSuccess) return devices > 0 ? "" : "no CUDA-capable device is detected";
  cudaGetLastError();  // forgets it
  return cudaGetErrorString(status);
}

std::string device_name() {
  int device = 0;
  cudaDeviceProp properties = {};
  check(cudaGetDevice(&device), "device");
  check(cudaGetDeviceProperties(&properties, device), "device");
  return properties.name;
}

Queue::Queue() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  stream_.reset(stream);
}
void Queue::wait() const {
  check(cudaStreamSynchronize(as_stream(stream())), "GPU");
}
void Queue::Destroy::operator()(void* stream) const {
  cudaStreamDestroy(static_cast<cudaStream_t>(stream));
}

DeviceMemory::DeviceMemory(std::size_t bytes, const std::string& what) : bytes_(bytes) {
  if (bytes == 0) return;
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "memory of the GPU");
  void* memory = nullptr;
  const cudaError_t status = bytes <= free ? cudaMalloc(&memory, bytes) : cudaErrorMemoryAllocation;
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // forgets it
    throw UsageError(concat(what, " needs ", format_bytes(bytes), " of the GPU's memory, of which ",
                            format_bytes(free), " of ", format_bytes(total),
                            " are free; end other programs on this GPU, or use --device cpu, "
                            "--cache fp16, fewer texts at a time or a smaller model"));
  }
  check(status, "memory of the GPU");
  data_.reset(static_cast<std::byte*>(memory));
  // The queues do not wait for the default stream, where this runs.
  check(cudaMemset(memory, 0, bytes), "memory of the GPU");
  check(cudaStreamSynchronize(nullptr), "memory of the GPU");
}
void DeviceMemory::Free::operator()(std::byte* memory) const {
  cudaFree(memory);
}

PinnedMemory::PinnedMemory(std::size_t bytes) {
  void* memory = nullptr;
  check(cudaMallocHost(&memory, bytes), "pinned memory of the host");
  data_.reset(static_cast<std::byte*>(memory));
}
void PinnedMemory::Free::operator()(std::byte* memory) const {
  cudaFreeHost(memory);
}

void upload(void* target, const void* source, std::size_t bytes) {
  if (bytes == 0) return;
  check(cudaMemcpy(target, source, bytes, cudaMemcpyHostToDevice), "copy to the GPU");
  check(cudaStreamSynchronize(nullptr), "copy to the GPU");
}
void copy_to_device(void* target, const PinnedMemory& source, std::size_t bytes, Stream stream) {
  copy(target, source.data(), bytes, cudaMemcpyHostToDevice, stream);
}
void copy_to_host(PinnedMemory& target, const void* source, std::size_t bytes, Stream stream) {
  copy(target.data(), source, bytes, cudaMemcpyDeviceToHost, stream);
}
void copy_on_device(void* target, const void* source, std::size_t bytes, Stream stream) {
  copy(target, source, bytes, cudaMemcpyDeviceToDevice, stream);
}

Graph::Graph(const Queue& queue, const std::function<void()>& enqueue) {
  const cudaStream_t stream = as_stream(queue.stream());
  // What other threads do meanwhile is their own affair.
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "recording a graph");
  std::exception_ptr error;
  try {
    enqueue();
  } catch (...) {
    error = std::current_exception();
  }
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
  cudaGraphExec_t executable = nullptr;
  const cudaError_t made =
      error || ended != cudaSuccess ? ended : cudaGraphInstantiate(&executable, graph, 0);
  if (graph) cudaGraphDestroy(graph);
  if (error || made != cudaSuccess) cudaGetLastError();  // forgets it
  if (error) std::rethrow_exception(error);
  check(made, "recording a graph");
  graph_.reset(executable);
}
void Graph::launch(const Queue& queue) const {
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph_.get()), as_stream(queue.stream())),
        "graph");
}
void Graph::Destroy::operator()(void* graph) const {
  cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph));
}

}  // namespace fbi::kernels::cuda
