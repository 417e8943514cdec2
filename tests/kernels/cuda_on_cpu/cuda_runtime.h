#pragma once

#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <type_traits>

/// As much of CUDA as the kernels of src/kernels/cuda and their tests use, on a processor, so that
/// their logic is tested where there is no GPU: this folder comes first among the include folders,
/// and the same sources are compiled as C++. A block's threads are fibers that take turns at
/// barriers (emulator.cpp). What a launch does wrong throws std::logic_error: a barrier or a warp
/// operation that not all threads reach, or reach at different lines; a lane outside of the mask.
/// Shared and allocated memory begins as NaN; device memory has marked borders, checked when it is
/// freed, and poisoned under AddressSanitizer. The processor cannot touch device memory; what is
/// copied to pinned memory comes when the host waits for it, and pinned memory that is changed
/// while it is copied from throws at that wait. A warp runs as far as it can before the next one
/// does; lanes, warps and blocks run upwards, downwards or shuffled from launch to launch, so that
/// results which depend on their order differ.
///
/// It does not say anything about speed, nor about a device's memory order; its exponentials are
/// off as a device's may be.

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __grid_constant__
/// One copy: blocks run one after another. In a section of its own, so that each block can begin
/// with garbage.
#define __shared__ static __attribute__((section("emulated_shared")))

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

/// May overlay arrays of other types, as on a device.
struct alignas(8) [[gnu::may_alias]] uint2 {
  unsigned x, y;
};
struct alignas(16) [[gnu::may_alias]] float4 {
  float x, y, z, w;
};
struct alignas(16) [[gnu::may_alias]] uint4 {
  unsigned x, y, z, w;
};

/// Borders of that section, defined by the linker where there is one.
extern "C" {
extern char __start_emulated_shared[] __attribute__((weak));
extern char __stop_emulated_shared[] __attribute__((weak));
}

/// Of the fiber that runs.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

/// What the kernels find before the C library's functions: by the programming guide a device's
/// exp2f is off by up to 2 units in the last place, its expf by fewer. Here it is -2 to 2 of them,
/// depending on x alone; of 0 both are exact.
namespace fbi::kernels::cuda {
inline float off_by_units(float exact, float x) {
  constexpr float kLargest = 1e38f;
  if (x == 0 || !(exact >= std::numeric_limits<float>::min() && exact < kLargest)) return exact;
  std::uint32_t bits = 0, seed = 0;
  std::memcpy(&bits, &exact, sizeof bits);
  std::memcpy(&seed, &x, sizeof seed);
  bits += (seed * 2654435761u >> 16) % 5 - 2;
  std::memcpy(&exact, &bits, sizeof exact);
  return exact;
}
inline float expf(float x) {
  return off_by_units(std::exp(x), x);
}
/// Results that are no normal numbers are 0, as with --ftz=true.
inline float exp2f(float x) {
  const float exact = std::exp2(x);
  return exact < std::numeric_limits<float>::min() ? 0 : off_by_units(exact, x);
}
}  // namespace fbi::kernels::cuda

namespace emulator {

/// Where in a kernel; two threads that wait for each other must wait at one place.
struct Site {
  const char* file;
  int line;
};

void launch(dim3 grid, dim3 block, const std::function<void()>& kernel);
void block_barrier(Site site);
/// Waits for the lanes of `mask`, hands every one the 32 values.
const std::uint64_t* exchange(Site site, unsigned mask, std::uint64_t value);
/// Fails the launch.
[[noreturn]] void fail(const char* what, Site site);
int lane();

template <class T>
std::uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class T>
T lane_value(Site site, unsigned mask, T value, int from) {
  const std::uint64_t* values = exchange(site, mask, to_bits(value));
  if (!(mask >> from & 1)) fail("reads a lane outside of the mask", site);
  T result;
  std::memcpy(&result, &values[from], sizeof result);
  return result;
}

}  // namespace emulator

#define EMULATED_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EMULATED_SITE) {
  emulator::block_barrier({file, line});
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, EMULATED_SITE) {
  emulator::exchange({file, line}, mask, 0);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATED_SITE) {
  const int first = emulator::lane() / width * width;
  return emulator::lane_value({file, line}, mask, value, first + source % width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, EMULATED_SITE) {
  return emulator::lane_value({file, line}, mask, value, emulator::lane() ^ bits);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, EMULATED_SITE) {
  const int from = emulator::lane() + static_cast<int>(distance);
  return emulator::lane_value({file, line}, mask, value, from < 32 ? from : emulator::lane());
}
inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATED_SITE) {
  const std::uint64_t* values = emulator::exchange({file, line}, mask, predicate != 0);
  unsigned ballot = 0;
  for (int lane = 0; lane < 32; ++lane)
    ballot |= static_cast<unsigned>(values[lane] & mask >> lane & 1) << lane;
  return ballot;
}

template <class T>
T atomicAdd(T* target, T value) {
  const T before = *target;
  *target += value;
  return before;
}
template <class T>
void __stwb(T* target, T value) {
  *target = value;
}
template <class T>
T __ldcg(const T* source) {
  return *source;
}
inline void __threadfence() {}
/// Four of the eight bytes of low and high, by the lowest three bits of each nibble of `selector`.
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const std::uint64_t bytes = std::uint64_t{high} << 32 | low;
  unsigned result = 0;
  for (unsigned k = 0; k < 4; ++k)
    result |= static_cast<unsigned>(bytes >> (selector >> 4 * k & 7) * 8 & 0xFF) << 8 * k;
  return result;
}
/// Addresses within shared memory.
inline std::size_t __cvta_generic_to_shared(const void* generic) {
  return static_cast<std::size_t>(static_cast<const char*>(generic) - __start_emulated_shared);
}
inline void* __cvta_shared_to_generic(std::size_t shared) {
  return __start_emulated_shared + shared;
}
inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}

using cudaStream_t = struct EmulatedStream*;
using cudaGraph_t = struct EmulatedGraph*;
using cudaGraphExec_t = struct EmulatedGraph*;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorIllegalAddress = 700,
  cudaErrorStreamCaptureUnsupported = 900
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
constexpr unsigned cudaStreamNonBlocking = 1;
struct cudaDeviceProp {
  char name[256];
};

const char* cudaGetErrorString(cudaError_t status);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceSynchronize();

/// What a wait for the device's work gives, from any thread.
extern std::atomic<cudaError_t> emulated_outcome;

/// What the device has; cudaMalloc refuses more.
extern std::size_t emulated_memory_bytes;
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
cudaError_t cudaMalloc(void** memory, std::size_t bytes);
/// cudaErrorIllegalAddress when something was written beyond the memory's borders.
cudaError_t cudaFree(void* memory);
cudaError_t cudaMallocHost(void** memory, std::size_t bytes);
cudaError_t cudaFreeHost(void* memory);
/// Copies within memory of the device; asynchronous ones from and to pinned memory only.
cudaError_t cudaMemcpy(void* target, const void* source, std::size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* target, const void* source, std::size_t bytes,
                            cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemset(void* memory, int value, std::size_t bytes);

/// Work is done when it is enqueued, or recorded while its stream is captured. Meanwhile what a
/// capture does not allow is refused.
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);

namespace emulator {
/// Does the work now, or records it.
void enqueue(cudaStream_t stream, std::function<void()> work);
/// Whether a stream is being captured.
bool captures();

/// While one lives, this process can touch device memory: kernels and copies run.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};
bool on_device(const void* memory, std::size_t bytes);
bool is_pinned(const void* memory);
std::size_t used_memory();
/// What the host finds when it has waited for the device.
void finish_copies();
}  // namespace emulator

/// A launch waits for the one before it, whatever it allows.
enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization = 6 };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};
struct cudaFuncAttributes {
  int ptxVersion;
};
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  attributes->ptxVersion = 90;
  return cudaSuccess;
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};
/// Refuses what a device refuses.
cudaError_t emulated_check(const cudaLaunchConfig_t& config);

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  if (const cudaError_t status = emulated_check(*config); status != cudaSuccess) return status;
  emulator::enqueue(config->stream,
                    [grid = config->gridDim, block = config->blockDim, kernel, arguments...] {
                      emulator::launch(grid, block, [&] { kernel(arguments...); });
                    });
  return cudaSuccess;
}
