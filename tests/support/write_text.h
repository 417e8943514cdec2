#pragma once

#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

namespace fbi::test {

/// Replaces a file. By a new one, because ext4 writes one that was truncated to the disk at once.
inline void write_text(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::remove(path);
  std::ofstream file(path, std::ios::binary);
  if (!(file << text)) throw std::runtime_error("cannot write " + path.string());
}

}  // namespace fbi::test
