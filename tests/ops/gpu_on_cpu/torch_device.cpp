#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

// Devices "cuda:0" and "cuda:1" for a LibTorch whose CUDA half is not loaded: memory and kernels
// are those of tests/kernels/cuda_on_cpu. Each has one stream, the default one.
namespace {

constexpr c10::DeviceIndex kDevices = 2;
thread_local c10::DeviceIndex chosen_device = 0;
constexpr int kMajor = 9, kMinor = 0;  // of the GPUs that the kernels are built for

void check(cudaError_t status) {
  TORCH_CHECK(status == cudaSuccess, "emulated GPU: ", cudaGetErrorString(status));
}

class EmulatedAllocator final : public c10::DeviceAllocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    void* memory = nullptr;
    if (bytes > 0) check(cudaMalloc(&memory, bytes));
    peak_ = std::max(peak_, emulator::used_memory());
    return {memory, memory, &free, at::Device(at::kCUDA, chosen_device)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free; }
  void copy_data(void* target, const void* source, std::size_t bytes) const override {
    check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, nullptr));
  }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override {
    c10::CachingDeviceAllocator::DeviceStats stats;
    stats.allocated_bytes[static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE)]
        .peak = static_cast<std::int64_t>(peak_);
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex) override { peak_ = emulator::used_memory(); }

 private:
  /// Kernels that write beyond their memory are found here, in a destructor.
  static void free(void* memory) {
    const cudaError_t status = cudaFree(memory);
    if (status == cudaSuccess) return;
    std::fprintf(stderr, "emulated GPU, memory that is freed: %s\n", cudaGetErrorString(status));
    std::abort();
  }
  std::size_t peak_ = 0;
};

class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    void* memory = nullptr;
    check(cudaMallocHost(&memory, bytes));
    return {memory, memory, &free, at::Device(at::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free; }
  void copy_data(void* target, const void* source, std::size_t bytes) const override {
    std::memcpy(target, source, bytes);
  }

 private:
  static void free(void* memory) { cudaFreeHost(memory); }
};

EmulatedAllocator allocator;
PinnedAllocator pinned_allocator;
struct RegisterAllocator {
  RegisterAllocator() { c10::SetAllocator(at::kCUDA, &allocator, /*priority=*/255); }
} const register_allocator;

struct EmulatedHooks final : at::CUDAHooksInterface {
  explicit EmulatedHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(at::DeviceIndex) const override { return true; }
  at::DeviceIndex deviceCount() const override { return kDevices; }
  int getNumGPUs() const override { return kDevices; }
  at::DeviceIndex current_device() const override { return chosen_device; }
  at::DeviceIndex getCurrentDevice() const override { return chosen_device; }
  void setCurrentDevice(at::DeviceIndex device) const override { chosen_device = device; }
  at::DeviceIndex exchangeDevice(at::DeviceIndex device) const override {
    return std::exchange(chosen_device, device);
  }
  at::DeviceIndex maybeExchangeDevice(at::DeviceIndex device) const override {
    return exchangeDevice(device);
  }
  void deviceSynchronize(at::DeviceIndex) const override { check(cudaDeviceSynchronize()); }
  bool isPinnedPtr(const void* data) const override { return emulator::is_pinned(data); }
  at::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  at::Allocator* getCUDADeviceAllocator() const override { return &allocator; }
};

struct Event {
  std::chrono::steady_clock::time_point time;
  bool timed = false;
};

struct EmulatedGuard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return at::kCUDA; }
  c10::Device getDevice() const override { return {at::kCUDA, chosen_device}; }
  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device before = getDevice();
    setDevice(device);
    return before;
  }
  void setDevice(c10::Device device) const override { c10::cuda::set_device(device.index()); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    chosen_device = device.index();
  }
  c10::Stream getStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device.has_index() ? device : getDevice());
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }
  void record(void** event, const c10::Stream&, c10::DeviceIndex,
              c10::EventFlag flag) const override {
    if (!*event) *event = new Event{{}, flag == c10::EventFlag::BACKEND_DEFAULT};
    static_cast<Event*>(*event)->time = std::chrono::steady_clock::now();
  }
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override {
    delete static_cast<Event*>(event);
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {
    check(cudaStreamSynchronize(nullptr));
  }
  void synchronizeEvent(void*) const override { check(cudaStreamSynchronize(nullptr)); }
  void synchronizeDevice(c10::DeviceIndex) const override { check(cudaDeviceSynchronize()); }
  double elapsedTime(void* begin, void* end, c10::DeviceIndex) const override {
    const Event &first = *static_cast<Event*>(begin), &last = *static_cast<Event*>(end);
    TORCH_CHECK(first.timed && last.timed, "emulated GPU: an event without a time");
    const auto time = last.time - first.time;
    return std::chrono::duration<double, std::milli>(time).count();
  }
};

}  // namespace

namespace at {  // the registry's macro names what it registers without a namespace
using ::EmulatedHooks;
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, EmulatedHooks)
}  // namespace at
namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, ::EmulatedGuard)
}  // namespace c10::impl

// Of libc10_cuda.so.
namespace c10::cuda {
DeviceIndex current_device() {
  return chosen_device;
}
void set_device(DeviceIndex device, bool) {
  TORCH_CHECK(device >= 0 && device < kDevices, "emulated GPU: there is no device ", device);
  chosen_device = device;
}
CUDAStream getCurrentCUDAStream(DeviceIndex device) {
  const DeviceIndex index = device < 0 ? chosen_device : device;
  return CUDAStream(Stream(Stream::DEFAULT, Device(DeviceType::CUDA, index)));
}
cudaStream_t CUDAStream::stream() const {
  return nullptr;
}
void c10_cuda_check_implementation(const std::int32_t status, const char*, const char*,
                                   const std::uint32_t, const bool) {
  check(static_cast<cudaError_t>(status));
}
}  // namespace c10::cuda

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device < 0 || device >= kDevices) return cudaErrorInvalidValue;
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? kMajor : kMinor;
  return cudaSuccess;
}
