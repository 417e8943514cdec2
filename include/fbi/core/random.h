#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace fbi {

/// Philox4x32-10 (Salmon et al., SC 2011): four 32-bit words as a pure function of (key, counter).
std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t counter_low,
                                    std::uint64_t counter_high);

/// out[k] = mean + stddev * (standard normal number `first_index + k` of stream (seed, stream)), by
/// Box-Muller in double, from one scalar routine: a value depends only on (seed, stream, index),
/// never on how the range is cut.
void fill_normal(std::span<float> out, std::uint64_t seed, std::uint64_t stream,
                 std::uint64_t first_index, double mean, double stddev);

/// A sequential generator over philox.
class RandomStream {
 public:
  RandomStream(std::uint64_t seed, std::uint64_t stream) : seed_(seed), stream_(stream) {}
  std::uint32_t next_u32();
  /// Uniform in [0, 1), 53 bits.
  double next_double();
  /// Uniform in [0, bound), without modulo bias; bound > 0.
  std::uint64_t next_below(std::uint64_t bound);

 private:
  std::uint64_t seed_, stream_, position_ = 0;  // position counts 32-bit words
};

/// A keyed bijection of [0, size), without tables (Feistel network with cycle walking).
class KeyedPermutation {
 public:
  KeyedPermutation(std::uint64_t size, std::uint64_t key);
  std::uint64_t operator()(std::uint64_t index) const;

 private:
  std::uint64_t size_, key_;
  unsigned half_bits_;
};

}  // namespace fbi
