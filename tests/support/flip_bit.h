#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>

namespace fbi::test {

/// Flips one bit of a file in place: the damage that only a hash sees.
inline void flip_bit(const std::filesystem::path& path, std::uint64_t offset) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  const char before = static_cast<char>(file.peek());
  file.seekp(static_cast<std::streamoff>(offset));
  file.put(static_cast<char>(before ^ 1));
}

inline void flip_last_bit(const std::filesystem::path& path) {
  flip_bit(path, std::filesystem::file_size(path) - 1);
}

}  // namespace fbi::test
