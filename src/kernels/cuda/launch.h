#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "fbi/kernels/cuda.h"

namespace fbi::kernels::cuda {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

/// Whether the pointer is a multiple of `bytes`.
inline bool aligned_to(const void* pointer, std::uintptr_t bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw CudaError(std::string(what) + ": " + cudaGetErrorString(status));
}

/// body(T{}) with the type of an element.
template <class Body>
void with_type(Element type, const Body& body) {
  switch (type) {
    case Element::kFp32:
      return body(float{});
    case Element::kBf16:
      return body(__nv_bfloat16{});
    case Element::kFp16:
      return body(__half{});
  }
}

struct Grid {
  std::int64_t x = 1, y = 1, z = 1;
};

inline cudaLaunchConfig_t config_of(Grid grid, int threads, Stream stream) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
                        static_cast<unsigned>(grid.z));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = static_cast<cudaStream_t>(stream);
  return config;
}

/// An ordinary function call, so that the tests can compile the kernels for a processor
/// (tests/kernels/cuda_on_cpu).
template <class... Parameters, class... Arguments>
void launch(const char* name, const cudaLaunchConfig_t& config, void (*kernel)(Parameters...),
            const Arguments&... arguments) {
  const cudaError_t launched = cudaLaunchKernelEx(&config, kernel, arguments...);
  const cudaError_t last = cudaGetLastError();  // also forgets the error
  check(launched != cudaSuccess ? launched : last, name);
}

/// kernel<<<grid, threads, 0, stream>>>(arguments...), and nothing where the grid is empty.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), Grid grid, int threads, Stream stream,
            const Arguments&... arguments) {
  if (grid.x * grid.y * grid.z == 0) return;
  launch(name, config_of(grid, threads, stream), kernel, arguments...);
}

/// The same for a kernel that calls wait_for_previous (readers.cuh): it may begin while the launch
/// before it still runs. Only where the code that the device runs has the wait in it, that is, was
/// compiled for 9.0; a later device translates the one for 8.0.
template <class... Parameters, class... Arguments>
void launch_early(const char* name, void (*kernel)(Parameters...), Grid grid, int threads,
                  Stream stream, const Arguments&... arguments) {
  if (grid.x * grid.y * grid.z == 0) return;
  cudaFuncAttributes code = {};
  check(cudaFuncGetAttributes(&code, reinterpret_cast<const void*>(kernel)), name);
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = config_of(grid, threads, stream);
  config.attrs = &early;
  config.numAttrs = code.ptxVersion >= 90 ? 1 : 0;
  launch(name, config, kernel, arguments...);
}

}  // namespace fbi::kernels::cuda
