#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

namespace fbi::test {

/// Names of what is in a folder, sorted.
inline std::vector<std::string> entries(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace fbi::test
