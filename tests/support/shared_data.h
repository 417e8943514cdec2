#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace fbi::test {

/// Where a file of the folder with shared test data lies: FBI_SHARED_DIR, else `shared` beside the
/// source tree.
inline std::filesystem::path shared_path(const std::filesystem::path& relative) {
  if (const char* folder = std::getenv("FBI_SHARED_DIR")) {
    return std::filesystem::path(folder) / relative;
  }
  const auto source = std::filesystem::path(__FILE__).parent_path().parent_path().parent_path();
  return source.parent_path() / "shared" / relative;
}

}  // namespace fbi::test

/// Declares `variable` as the path of shared data, or skips the test with the reason when it is not
/// there.
#define FBI_SHARED_OR_SKIP(variable, relative)                             \
  const std::filesystem::path variable = fbi::test::shared_path(relative); \
  if (!std::filesystem::exists(variable)) {                                \
    GTEST_SKIP() << variable << " is absent; set FBI_SHARED_DIR";          \
  }                                                                        \
  static_assert(true, "needs a semicolon")
