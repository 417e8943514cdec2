#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "fbi/kernels/gemv.h"

namespace fbi::kernels {

/// Of a finite binary16.
inline float value_of_half(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float magnitude = exponent > 0
                              ? std::ldexp(1024.0f + static_cast<float>(fraction), exponent - 25)
                              : std::ldexp(static_cast<float>(fraction), -24);
  return bits >> 15 ? -magnitude : magnitude;
}

/// A row [columns], as the products see it.
inline std::vector<float> stored_row(const DenseLinear& w, std::int64_t row) {
  const std::byte* from = w.values().data() + row * w.row_stride_bytes();
  std::vector<float> out(static_cast<std::size_t>(w.shape().columns));
  if (w.storage() == Storage::kFp32) {
    std::memcpy(out.data(), from, out.size() * sizeof(float));
  } else if (w.storage() == Storage::kFp16) {
    std::vector<std::uint16_t> halves(out.size());
    std::memcpy(halves.data(), from, halves.size() * sizeof(std::uint16_t));
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = value_of_half(halves[i]);
  } else {
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] = w.row_scales()[static_cast<std::size_t>(row)] * static_cast<std::int8_t>(from[i]);
    }
  }
  return out;
}

}  // namespace fbi::kernels
