#pragma once

#include <cstdint>
#include <string_view>

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include "fbi/ops/parameter_slot.h"

namespace fbi::ops {

/// What `train.sign_products` means for a device, a compute dtype and a model; auto takes whatever
/// measured faster (docs/benchmarks.md). Throws UsageError where tables cannot be had.
SignProducts choose_sign_products(std::string_view option, at::Device device, at::ScalarType dtype,
                                  std::int64_t hidden_size);

}  // namespace fbi::ops
