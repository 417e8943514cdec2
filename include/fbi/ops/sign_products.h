#pragma once

#include <cstdint>
#include <string_view>

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include "fbi/ops/parameter_slot.h"

namespace fbi::ops {

/// What `train.sign_products` means for a device, a compute dtype and a model; auto takes whatever
/// measured faster (docs/benchmarks.md). Throws UsageError where tables or fp8 cannot be had.
SignProducts choose_sign_products(std::string_view option, at::Device device, at::ScalarType dtype,
                                  std::int64_t hidden_size);
/// Throws UsageError where the option goes with no device of that type, or not with that dtype;
/// whether there is one is not asked.
void check_sign_products(std::string_view option, at::Device device, at::ScalarType dtype);
/// Throws UsageError where the matrix of a packed slot has a shape that its products do not take.
void check_sign_products(const ParameterSlot& slot);
/// Whether W~ is formed, for forward and backward or (fp8) backward alone.
bool unpacks(SignProducts products);

}  // namespace fbi::ops
