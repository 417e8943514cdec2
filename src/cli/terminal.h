#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace fbi::cli {

bool stderr_is_terminal();

/// One line on standard error that is overwritten in place: a bar with percentage, text and ETA.
/// Does nothing when standard error is no terminal. Redraws at most ten times a second.
class ProgressBar {
 public:
  ~ProgressBar() { clear(); }
  void show(std::int64_t done, std::int64_t total, const std::string& text);
  void clear();

 private:
  bool visible_ = false;
  std::chrono::steady_clock::time_point last_{};
};

}  // namespace fbi::cli
