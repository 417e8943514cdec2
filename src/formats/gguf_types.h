#pragma once

#include <cstdint>

namespace fbi::formats {

/// Numbers that GGUF's reader and writer share.
inline constexpr char kGgufMagic[] = {'G', 'G', 'U', 'F'};
inline constexpr std::uint32_t kGgufVersion = 3;
/// Of the tensors, from the end of the header on.
inline constexpr std::uint64_t kGgufAlignment = 32;

enum class GgufKind : std::uint32_t {
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9
};

inline std::uint64_t gguf_aligned(std::uint64_t bytes) {
  return (bytes + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment;
}

}  // namespace fbi::formats
