#pragma once

#include <cstdint>
#include <string>

#include <c10/core/Device.h>

namespace fbi::ops {

/// "auto" (a GPU when there is one), "cpu" or "cuda" (the one with index local_rank). UsageError for other names, and when CUDA is
/// asked for and missing.
at::Device choose_device(const std::string& name, int local_rank);

/// The most bytes that tensors have held at once on this GPU since the process started; 0 for the CPU.
std::int64_t peak_device_bytes(at::Device device);

}  // namespace fbi::ops
