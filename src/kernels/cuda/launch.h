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

/// kernel<<<grid, threads, 0, stream>>>(arguments...), and nothing where the grid is empty. An
/// ordinary function call, so that the tests can compile the kernels for a processor
/// (tests/kernels/cuda_on_cpu).
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), Grid grid, int threads, Stream stream,
            const Arguments&... arguments) {
  if (grid.x * grid.y * grid.z == 0) return;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
                        static_cast<unsigned>(grid.z));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = static_cast<cudaStream_t>(stream);
  const cudaError_t launched = cudaLaunchKernelEx(&config, kernel, arguments...);
  const cudaError_t last = cudaGetLastError();  // also forgets the error
  check(launched != cudaSuccess ? launched : last, name);
}

}  // namespace fbi::kernels::cuda
