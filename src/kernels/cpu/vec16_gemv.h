#pragma once

#include <cstddef>

#include "kernels/cpu/vec16_lanes.h"
#include "kernels/gemv_kernels.h"

/// The dense half of GemvKernels on sixteen lanes; load_half and load_int8 come from the file that
/// includes this one. Sums: column i goes to lane i % 16 of one of kChains accumulators.
namespace fbi::kernels {
namespace {

inline float sum_lanes(Floats x) {
  alignas(64) float lanes[kLanes];
  store(lanes, x);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  }
  return lanes[0];
}

struct LoadFp32 {
  static constexpr std::int64_t bytes = 4;
  Floats operator()(const std::byte* w) const { return load(reinterpret_cast<const float*>(w)); }
};
struct LoadFp16 {
  static constexpr std::int64_t bytes = 2;
  Floats operator()(const std::byte* w) const { return load_half(w); }
};
struct LoadInt8 {
  static constexpr std::int64_t bytes = 1;
  Floats operator()(const std::byte* w) const { return load_int8(w); }
};

/// n rows, each with one chain of additions of its own.
template <int n, class Load>
inline void dense_group(const std::byte* w, std::int64_t row_stride, std::int64_t columns,
                        const float* x, float* y) {
  const Load load_weights;
  Floats sums[n];
  for (int r = 0; r < n; ++r) sums[r] = splat(0);
  for (std::int64_t i = 0; i < columns; i += kLanes) {
    const Floats input = load(x + i);
    for (int r = 0; r < n; ++r) {
      sums[r] = fma(load_weights(w + r * row_stride + i * Load::bytes), input, sums[r]);
    }
  }
  for (int r = 0; r < n; ++r) y[r] = sum_lanes(sums[r]);
}

template <class Load>
void dense_rows(const std::byte* w, std::int64_t row_stride, std::int64_t columns, const float* x,
                std::int64_t rows, float* y) {
  constexpr int kGroup = 4;
  std::int64_t r = 0;
  for (; r + kGroup <= rows; r += kGroup) {
    dense_group<kGroup, Load>(w + r * row_stride, row_stride, columns, x, y + r);
  }
  for (; r < rows; ++r) dense_group<1, Load>(w + r * row_stride, row_stride, columns, x, y + r);
}

float dot(const float* x, const float* y, bool per_element, std::int64_t count) {
  Doubles sum = zero_doubles();
  for_lanes(count, [&](std::int64_t i, auto lanes) {
    const Floats other = per_element ? load(y + i, lanes) : keep(splat(*y), lanes);
    accumulate(sum, widen(mul(load(x + i, lanes), other)));
  });
  return static_cast<float>(sum_of_lanes(sum));
}

void scale(const float* x, float factor, const float* weight, std::int64_t count, float* out) {
  for_lanes(count, [&](std::int64_t i, auto lanes) {
    store(out + i, mul(mul(load(x + i, lanes), splat(factor)), load(weight + i, lanes)), lanes);
  });
}

/// n times sixteen values of a head, kept in registers over all positions.
template <int n, class Load>
inline void mix_group(const float* weights, const std::byte* values, std::int64_t positions,
                      std::int64_t stride, float* out) {
  const Load load_values;
  Floats sums[n];
  for (int k = 0; k < n; ++k) sums[k] = splat(0);
  for (std::int64_t p = 0; p < positions; ++p) {
    const Floats weight = splat(weights[p]);
    for (int k = 0; k < n; ++k) {
      const std::byte* from = values + p * stride + k * kLanes * Load::bytes;
      sums[k] = fma(weight, load_values(from), sums[k]);
    }
  }
  for (int k = 0; k < n; ++k) store(out + k * kLanes, sums[k]);
}

template <class Load>
void mix(const float* weights, const std::byte* values, std::int64_t positions,
         std::int64_t head_dim, float* out) {
  constexpr std::int64_t kGroup = 4;
  const std::int64_t stride = head_dim * Load::bytes, pieces = head_dim / kLanes;
  std::int64_t k = 0;
  for (; k + kGroup <= pieces; k += kGroup) {
    const std::int64_t first = k * kLanes;
    mix_group<kGroup, Load>(weights, values + first * Load::bytes, positions, stride, out + first);
  }
  for (; k < pieces; ++k) {
    const std::int64_t first = k * kLanes;
    mix_group<1, Load>(weights, values + first * Load::bytes, positions, stride, out + first);
  }
}

}  // namespace
}  // namespace fbi::kernels
