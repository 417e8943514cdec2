#include "fbi/ops/device.h"

#include <ATen/Context.h>

#include "fbi/core/error.h"

namespace fbi::ops {
namespace {

// Kernels of our own take processor pointers only, so far: a tensor on a GPU would crash them.
constexpr bool kHasCudaKernels = false;

}  // namespace

at::Device choose_device(const std::string& name, int local_rank) {
  if (name != "auto" && name != "cpu" && name != "cuda")
    throw UsageError(concat("device '", name, "' is unknown; choose auto, cpu or cuda"));
  const bool available = kHasCudaKernels && at::hasCUDA();
  if (name == "cuda" && !available)
    throw UsageError("device cuda is asked for, but this version has no CUDA kernels yet; use cpu or auto");
  if (name == "cpu" || !available) return at::kCPU;
  return at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(local_rank));
}

}  // namespace fbi::ops
