#pragma once

#include <cstring>

#include "kernels/cpu_kernels.h"

/// Loops over sixteen lanes at a time, on top of vec16_avx512.h, vec16_avx2.h or vec16_neon.h, one
/// of which is included before this header. Everything is in an unnamed namespace: nothing here may
/// be shared between files of different flags.
namespace fbi::kernels {
namespace {

struct Full {
  static constexpr int n = kLanes;
};
/// The end of a row: n lanes, 0 < n < kLanes.
struct Part {
  int n;
};

inline Floats load(const float* x, Full) {
  return load(x);
}
inline Floats load(const float* x, Part part) {
  return load(x, part.n);
}
inline void store(float* out, Floats x, Full) {
  store(out, x);
}
inline void store(float* out, Floats x, Part part) {
  store(out, x, part.n);
}
inline Floats keep(Floats x, Full) {
  return x;
}
inline Floats keep(Floats x, Part part) {
  return keep_first(x, part.n);
}

/// Calls body(first element, Full or Part) for [0, count) in ascending order.
template <class Body>
inline void for_lanes(std::int64_t count, const Body& body) {
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, Full{});
  if (i < count) body(i, Part{static_cast<int>(count - i)});
}

/// Bits [i, i + n) of a row, i a multiple of 16; bits of other rows are never touched.
inline std::uint32_t load_bits(const std::uint8_t* bits, std::int64_t i, Full) {
  std::uint16_t word;
  std::memcpy(&word, bits + i / 8, sizeof word);
  return word;
}
inline std::uint32_t load_bits(const std::uint8_t* bits, std::int64_t i, Part part) {
  return part.n > 8 ? load_bits(bits, i, Full{}) : bits[i / 8];
}
inline void store_bits(std::uint8_t* bits, std::int64_t i, std::uint32_t value, Full) {
  const auto word = static_cast<std::uint16_t>(value);
  std::memcpy(bits + i / 8, &word, sizeof word);
}
inline void store_bits(std::uint8_t* bits, std::int64_t i, std::uint32_t value, Part part) {
  value &= (1u << part.n) - 1;
  if (part.n > 8) return store_bits(bits, i, value, Full{});
  bits[i / 8] = static_cast<std::uint8_t>(value);
}

/// alpha or beta of columns [i, i + 16), or of the whole row.
template <bool per_column, class Lanes>
inline Floats load_scale(const float* scale, std::int64_t i, Lanes lanes) {
  if constexpr (per_column) return load(scale + i, lanes);
  return splat(*scale);
}

inline double sum_of_lanes(const Doubles& x) {
  double lanes[kLanes];
  store(lanes, x);
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return sum;
}

inline void store_bfloat16(std::uint16_t* out, Floats x, Full) {
  store_bfloat16(out, x);
}
inline void store_bfloat16(std::uint16_t* out, Floats x, Part part) {
  std::uint16_t lanes[kLanes];
  store_bfloat16(lanes, x);
  for (int j = 0; j < part.n; ++j) out[j] = lanes[j];
}

}  // namespace
}  // namespace fbi::kernels
