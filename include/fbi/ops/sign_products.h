#pragma once

#include <string_view>

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include "fbi/ops/parameter_slot.h"

namespace fbi::ops {

/// What `train.sign_products` means for a device and a compute dtype; auto takes whatever measured
/// faster (docs/benchmarks.md). Throws UsageError where tables cannot be had.
SignProducts choose_sign_products(std::string_view option, at::Device device, at::ScalarType dtype);

}  // namespace fbi::ops
