#pragma once

#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

namespace fbi::test {

/// Replaces the content of a file.
inline void write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  if (!(file << text)) throw std::runtime_error("cannot write " + path.string());
}

}  // namespace fbi::test
