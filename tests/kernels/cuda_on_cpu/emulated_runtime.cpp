#include <cuda_runtime.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

// Memory, streams and graphs.

std::size_t emulated_memory_bytes = std::size_t{1} << 30;
std::atomic<cudaError_t> emulated_outcome = cudaSuccess;

struct EmulatedStream {};
struct EmulatedGraph {
  std::vector<std::function<void()>> work;
};

namespace {

constexpr std::size_t kBorder = 256;
constexpr unsigned char kMark = 0xA5;

struct Allocation {
  std::size_t bytes = 0;
  /// Begins where the border before it begins; the end is exact.
  unsigned char* block = nullptr;
};
using Allocations = std::map<const void*, Allocation>;
Allocations& allocations() {
  static Allocations all;
  return all;
}
Allocations& pinned() {
  static Allocations all;
  return all;
}
std::size_t used_bytes() {
  std::size_t sum = 0;
  for (const auto& [memory, allocation] : allocations()) sum += allocation.bytes;
  return sum;
}
bool holds(const Allocations& all, const void* memory, std::size_t bytes) {
  auto after = all.upper_bound(memory);
  if (after == all.begin()) return false;
  const auto& [begin, allocation] = *std::prev(after);
  const auto offset = static_cast<const char*>(memory) - static_cast<const char*>(begin);
  return static_cast<std::size_t>(offset) + bytes <= allocation.bytes;
}
bool fits_device(const void* target, const void* source, std::size_t bytes, cudaMemcpyKind kind) {
  const bool to = kind == cudaMemcpyDeviceToHost || holds(allocations(), target, bytes);
  const bool from = kind == cudaMemcpyHostToDevice || holds(allocations(), source, bytes);
  return bytes == 0 || (to && from);
}

/// The graph that is being recorded, if any, and where from.
EmulatedGraph*& captured() {
  static EmulatedGraph* graph = nullptr;
  return graph;
}
cudaStream_t& captured_stream() {
  static cudaStream_t stream = nullptr;
  return stream;
}
cudaError_t refused_by_capture() {
  return captured() ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

void mark(unsigned char* border, std::size_t bytes) {
  std::memset(border, kMark, bytes);
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(border, bytes);
#endif
}
bool marked(const unsigned char* border, std::size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(border, bytes);
#endif
  return std::all_of(border, border + bytes, [](unsigned char x) { return x == kMark; });
}

}  // namespace

const char* cudaGetErrorString(cudaError_t status) {
  switch (status) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
  }
  return "unknown error";
}
cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::strcpy(properties->name, "emulator");
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  return refused_by_capture();
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = emulated_memory_bytes;
  *free = emulated_memory_bytes - std::min(used_bytes(), emulated_memory_bytes);
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  if (captured()) return refused_by_capture();
  if (used_bytes() + bytes > emulated_memory_bytes) return cudaErrorMemoryAllocation;
  const std::size_t whole = (bytes + 2 * kBorder + kBorder - 1) / kBorder * kBorder;
  auto* block = static_cast<unsigned char*>(std::aligned_alloc(kBorder, whole));
  if (!block) return cudaErrorMemoryAllocation;
  std::memset(block + kBorder, 0xFF, bytes);
  mark(block, kBorder);
  mark(block + kBorder + bytes, kBorder);
  *memory = block + kBorder;
  allocations()[*memory] = {bytes, block};
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  if (captured()) return refused_by_capture();
  const auto found = allocations().find(memory);
  if (found == allocations().end()) return memory ? cudaErrorInvalidValue : cudaSuccess;
  const auto [bytes, block] = found->second;
  allocations().erase(found);
  const bool before = marked(block, kBorder), after = marked(block + kBorder + bytes, kBorder);
  std::free(block);
  return before && after ? cudaSuccess : cudaErrorIllegalAddress;
}
cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
  if (captured()) return refused_by_capture();
  *memory = std::malloc(bytes);
  pinned()[*memory] = {bytes, nullptr};
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* memory) {
  pinned().erase(memory);
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* target, const void* source, std::size_t bytes, cudaMemcpyKind kind) {
  if (captured()) return refused_by_capture();
  if (!fits_device(target, source, bytes, kind)) return cudaErrorInvalidValue;
  if (bytes) std::memcpy(target, source, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* target, const void* source, std::size_t bytes,
                            cudaMemcpyKind kind, cudaStream_t stream) {
  const bool host = kind == cudaMemcpyDeviceToDevice ||
                    holds(pinned(), kind == cudaMemcpyHostToDevice ? source : target, bytes);
  if (!host || !fits_device(target, source, bytes, kind)) return cudaErrorInvalidValue;
  emulator::enqueue(stream, [=] { std::memcpy(target, source, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemset(void* memory, int value, std::size_t bytes) {
  if (captured()) return refused_by_capture();
  if (!holds(allocations(), memory, bytes)) return cudaErrorInvalidValue;
  std::memset(memory, value, bytes);
  return cudaSuccess;
}

void emulator::enqueue(cudaStream_t stream, std::function<void()> work) {
  if (captured() && stream == captured_stream()) {
    captured()->work.push_back(std::move(work));
  } else {
    work();
  }
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new EmulatedStream;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return captured() ? refused_by_capture() : emulated_outcome.load();
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (captured()) return refused_by_capture();
  captured() = new EmulatedGraph;
  captured_stream() = stream;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  *graph = std::exchange(captured(), nullptr);
  return *graph ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {
  *executable = new EmulatedGraph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
  for (const auto& work : executable->work) work();
  return cudaSuccess;
}
