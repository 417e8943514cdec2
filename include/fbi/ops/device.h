#pragma once

#include <string>

#include <c10/core/Device.h>

namespace fbi::ops {

/// "auto" (a GPU when there is one), "cpu" or "cuda" (the one with index local_rank). UsageError for other names, and when CUDA is
/// asked for and missing.
at::Device choose_device(const std::string& name, int local_rank);

}  // namespace fbi::ops
