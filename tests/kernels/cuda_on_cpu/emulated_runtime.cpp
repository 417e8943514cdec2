#include <cuda_runtime.h>

#include <utility>
#include <vector>

// Streams and graphs.

std::atomic<cudaError_t> emulated_outcome = cudaSuccess;

struct EmulatedStream {};
struct EmulatedGraph {
  std::vector<std::function<void()>> work;
};

namespace {

/// The graph that is being recorded, if any, and where from.
EmulatedGraph*& captured() {
  static EmulatedGraph* graph = nullptr;
  return graph;
}
cudaStream_t& captured_stream() {
  static cudaStream_t stream = nullptr;
  return stream;
}
/// The host has waited for the device.
cudaError_t wait_for_device() {
  if (emulator::captures()) return cudaErrorStreamCaptureUnsupported;
  emulator::finish_copies();
  return emulated_outcome;
}

}  // namespace

bool emulator::captures() {
  return captured() != nullptr;
}

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
  return wait_for_device();
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
  return wait_for_device();
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (captured()) return cudaErrorStreamCaptureUnsupported;
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
