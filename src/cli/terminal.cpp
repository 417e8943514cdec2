#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "fbi/core/error.h"

namespace fbi::cli {
namespace {

std::size_t terminal_width() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

bool stderr_is_terminal() {
  return ::isatty(STDERR_FILENO) == 1;
}

void ProgressBar::show(std::int64_t done, std::int64_t total, const std::string& text) {
  if (!stderr_is_terminal() || total <= 0) return;
  const auto now = std::chrono::steady_clock::now();
  if (visible_ && done < total && now - last_ < std::chrono::milliseconds(100)) return;
  last_ = now;
  constexpr std::size_t kCells = 24;
  const auto filled = std::min<std::size_t>(
      kCells, static_cast<std::size_t>(done) * kCells / static_cast<std::size_t>(total));
  std::string line = concat("[", std::string(filled, '#'), std::string(kCells - filled, '.'), "] ",
                            done * 100 / total, "% ", text);
  if (line.size() >= terminal_width()) line.resize(terminal_width() - 1);
  std::fprintf(stderr, "\r\033[K%s", line.c_str());
  std::fflush(stderr);
  visible_ = true;
}

void ProgressBar::clear() {
  if (!visible_) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
  visible_ = false;
}

}  // namespace fbi::cli
