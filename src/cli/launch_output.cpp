#include "cli/launch_output.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace fbi::cli {
namespace {

constexpr std::size_t kKeptLines = 20;
constexpr std::size_t kLongestLine = 64 << 10;  // longer ones are cut into several

/// One write per line, so that lines of several ranks don't mix. A reader that has gone is no error
/// of the ranks.
void write_all(int target, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(target, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace

LineStream::LineStream(Descriptor pipe, std::string prefix, int target)
    : pipe_(std::move(pipe)), prefix_(std::move(prefix)), target_(target) {
  fcntl(pipe_.get(), F_SETFL, O_NONBLOCK);
}

void LineStream::read() {
  std::array<char, 16 << 10> buffer;
  while (pipe_.open()) {
    const ssize_t got = ::read(pipe_.get(), buffer.data(), buffer.size());
    if (got > 0) {
      take({buffer.data(), static_cast<std::size_t>(got)});
    } else if (got < 0 && errno == EINTR) {
      continue;
    } else if (got < 0 && errno == EAGAIN) {
      return;
    } else {
      pipe_.close();
      if (!line_.empty()) finish_line();
    }
  }
}

void LineStream::take(std::string_view text) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    line_ += text.substr(0, end);
    const bool complete = end < text.size();
    if (complete || line_.size() >= kLongestLine) finish_line();
    text.remove_prefix(end + (complete ? 1 : 0));
  }
}

void LineStream::finish_line() {
  std::string shown = prefix_ + std::exchange(line_, {}) + "\n";
  if (target_ >= 0) {
    write_all(target_, shown);
    return;
  }
  kept_.push_back(std::move(shown));
  if (kept_.size() > kKeptLines) kept_.pop_front();
}

void LineStream::show_kept(int target) const {
  for (const auto& line : kept_) write_all(target, line);
}

}  // namespace fbi::cli
