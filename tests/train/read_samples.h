#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace fbi::train {

inline constexpr std::int64_t kSampleVocab = 61;  // rows that divide over neither 2 nor 4 ranks

/// Ids as a function of the sample's position.
inline void read_samples(std::int64_t first, std::int64_t count, std::span<std::int32_t> ids) {
  const auto width = ids.size() / static_cast<std::size_t>(count);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto sample = static_cast<std::size_t>(first) + i / width;
    ids[i] =
        static_cast<std::int32_t>((sample * sample * 17 + (i % width) * 29 + 3) % kSampleVocab);
  }
}

}  // namespace fbi::train
