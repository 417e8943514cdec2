#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <string>

#include "fbi/kernels/cuda.h"
#include "kernels/support.h"

/// Tests of the CUDA kernels. The same files make two programs: on a GPU (builds with FBI_CUDA=ON),
/// and on the emulator of cuda_on_cpu.
namespace fbi::kernels::cuda {

inline void expect_success(cudaError_t status) {
  ASSERT_EQ(status, cudaSuccess) << cudaGetErrorString(status);
}

/// Skipped with the reason where there is no device.
class OnDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    const cudaError_t status = cudaGetDeviceCount(&devices);
    if (status != cudaSuccess || devices == 0)
      GTEST_SKIP() << "no GPU: " << cudaGetErrorString(status);
  }
};

/// Device memory of `count` elements; the emulator checks its borders.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::int64_t count) : count_(static_cast<std::size_t>(count)) {
    void* memory = nullptr;
    expect_success(cudaMalloc(&memory, count_ * sizeof(T)));
    data_ = static_cast<T*>(memory);
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(std::ssize(values)) {
    expect_success(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { expect_success(cudaFree(data_)); }

  T* data() const { return data_; }
  /// Waits for all that was launched.
  std::vector<T> values() const {
    expect_success(cudaDeviceSynchronize());
    std::vector<T> values(count_);
    expect_success(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  std::size_t count_;
  T* data_ = nullptr;
};

template <class T>
constexpr Element kElement = std::is_same_v<T, float>           ? Element::kFp32
                             : std::is_same_v<T, __nv_bfloat16> ? Element::kBf16
                                                                : Element::kFp16;

/// To and from the type of a kernel's elements.
template <class T>
T converted(float x) {
  if constexpr (std::is_same_v<T, float>)
    return x;
  else if constexpr (std::is_same_v<T, __half>)
    return __float2half_rn(x);
  else
    return __float2bfloat16_rn(x);
}
inline float widened(float x) {
  return x;
}
inline float widened(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
inline float widened(__half x) {
  return __half2float(x);
}

template <class T>
std::vector<T> converted(const std::vector<float>& values) {
  std::vector<T> result;
  for (float x : values) result.push_back(converted<T>(x));
  return result;
}
template <class T>
std::vector<float> widened(const std::vector<T>& values) {
  std::vector<float> result;
  for (T x : values) result.push_back(widened(x));
  return result;
}

/// Half a unit in the last place of the type, relative.
template <class T>
constexpr double kRounding = std::is_same_v<T, float>    ? 0x1p-24
                             : std::is_same_v<T, __half> ? 0x1p-11
                                                         : 0x1p-8;

/// body(T{}) for each type of elements.
template <class Body>
void for_each_type(const Body& body) {
  {
    SCOPED_TRACE("fp32");
    body(float{});
  }
  {
    SCOPED_TRACE("bf16");
    body(__nv_bfloat16{});
  }
  SCOPED_TRACE("fp16");
  body(__half{});
}

/// The result of call() by the reference.
template <class Call>
auto reference(const Call& call) {
  force_level(Level::kRef);
  auto result = call();
  force_level(std::nullopt);
  return result;
}

}  // namespace fbi::kernels::cuda
