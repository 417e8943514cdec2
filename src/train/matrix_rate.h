#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

namespace fbi::train {

/// Operations, seconds of two processor cores: a shorter run is over before its rate is measured.
inline constexpr double kLongRun = 1e12;

/// Operations per second (a multiply-add counts two) of the best of a few products [N, N] [N, N] of
/// random numbers in `dtype`, by ops::matrix_product or, in fp8 (kFloat8_e4m3fn), ops::fp8_product,
/// with N large enough for the device. Takes half a second and no number of any other generator.
double measure_matrix_rate(c10::ScalarType dtype, c10::Device device);

}  // namespace fbi::train
