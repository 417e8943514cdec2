#include "fbi/core/random.h"

#include <bit>
#include <cmath>
#include <numbers>

#include "fbi/core/error.h"

namespace fbi {
namespace {

constexpr double kTwoToMinus53 = 0x1p-53;

std::uint64_t top_53_bits(std::uint32_t high, std::uint32_t low) {
  return (std::uint64_t{high} << 32 | low) >> 11;
}

// The finaliser of SplitMix64: a fixed bijection of 64-bit words in which each input bit reaches
// every output bit.
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t counter_low,
                                    std::uint64_t counter_high) {
  auto key0 = static_cast<std::uint32_t>(key), key1 = static_cast<std::uint32_t>(key >> 32);
  std::array<std::uint32_t, 4> word{
      static_cast<std::uint32_t>(counter_low), static_cast<std::uint32_t>(counter_low >> 32),
      static_cast<std::uint32_t>(counter_high), static_cast<std::uint32_t>(counter_high >> 32)};
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * word[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57u} * word[2];
    word = {static_cast<std::uint32_t>(product1 >> 32) ^ word[1] ^ key0,
            static_cast<std::uint32_t>(product1),
            static_cast<std::uint32_t>(product0 >> 32) ^ word[3] ^ key1,
            static_cast<std::uint32_t>(product0)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return word;
}

void fill_normal(std::span<float> out, std::uint64_t seed, std::uint64_t stream,
                 std::uint64_t first_index, double mean, double stddev) {
  // One philox block gives the numbers 2p (cosine) and 2p + 1 (sine).
  for (std::size_t k = 0; k < out.size();) {
    const std::uint64_t index = first_index + k;
    const auto word = philox(seed, index / 2, stream);
    // In (0, 1]: the logarithm is finite.
    const double u = static_cast<double>(top_53_bits(word[0], word[1]) + 1) * kTwoToMinus53;
    const double v = static_cast<double>(top_53_bits(word[2], word[3])) * kTwoToMinus53;
    const double radius = std::sqrt(-2.0 * std::log(u));
    const double angle = 2.0 * std::numbers::pi * v;
    if (index % 2 == 0) {
      out[k++] = static_cast<float>(mean + stddev * (radius * std::cos(angle)));
      if (k == out.size()) return;
    }
    out[k++] = static_cast<float>(mean + stddev * (radius * std::sin(angle)));
  }
}

std::uint32_t RandomStream::next_u32() {
  const auto word = philox(seed_, position_ / 4, stream_);
  return word[position_++ % 4];
}

double RandomStream::next_double() {
  const std::uint32_t high = next_u32();
  return static_cast<double>(top_53_bits(high, next_u32())) * kTwoToMinus53;
}

std::uint64_t RandomStream::next_below(std::uint64_t bound) {
  if (bound == 0) throw UsageError("RandomStream::next_below: bound must be positive, found 0");
  // Numbers below 2^64 mod bound are rejected: what remains is a multiple of bound.
  const std::uint64_t rejected = (0 - bound) % bound;
  for (;;) {
    const std::uint64_t high = next_u32();
    const std::uint64_t number = high << 32 | next_u32();
    if (number >= rejected) return number % bound;
  }
}

KeyedPermutation::KeyedPermutation(std::uint64_t size, std::uint64_t key) : size_(size), key_(key) {
  if (size == 0) throw UsageError("KeyedPermutation: size must be positive, found 0");
  const auto bits = static_cast<unsigned>(std::bit_width(size - 1));
  half_bits_ = bits < 2 ? 1 : (bits + 1) / 2;
}

std::uint64_t KeyedPermutation::operator()(std::uint64_t index) const {
  if (index >= size_) {
    throw UsageError(
        concat("KeyedPermutation: expected an index below ", size_, ", found ", index));
  }
  constexpr std::uint64_t kRounds = 8;
  const std::uint64_t half_mask = (std::uint64_t{1} << half_bits_) - 1;
  // The domain is smaller than 4 * size: walking the cycle back into [0, size) takes under 4 turns
  // on average.
  do {
    std::uint64_t left = index >> half_bits_, right = index & half_mask;
    for (std::uint64_t round = 0; round < kRounds; ++round) {
      const std::uint64_t round_key = mix(key_ + (round + 1) * 0x9e3779b97f4a7c15u);
      const std::uint64_t next = left ^ (mix(round_key ^ mix(right + round)) & half_mask);
      left = right;
      right = next;
    }
    index = left << half_bits_ | right;
  } while (index >= size_);
  return index;
}

}  // namespace fbi
