#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "fbi/core/error.h"

/// Log facade. spdlog stays behind it in one LibTorch-free file. Before any `add_*` call messages
/// are dropped, so a library user hears nothing unless they ask.
namespace fbi::log {

enum class Level { kDebug, kInfo, kWarn, kError };

/// Messages of `level` and above go to standard error (colours on a terminal).
void add_terminal(Level level);
/// While it lives, messages of all levels are appended to `path` with a time stamp.
class FileSink {
 public:
  explicit FileSink(const std::string& path);  ///< DiskError when the file can't be opened
  ~FileSink();
  FileSink(const FileSink&) = delete;
  FileSink& operator=(const FileSink&) = delete;

 private:
  std::shared_ptr<void> sink_;
};
/// Removes all sinks and flushes them.
void reset();
void write(Level level, std::string_view message);

template <class... Args>
void debug(const Args&... args) {
  write(Level::kDebug, concat(args...));
}
template <class... Args>
void info(const Args&... args) {
  write(Level::kInfo, concat(args...));
}
template <class... Args>
void warn(const Args&... args) {
  write(Level::kWarn, concat(args...));
}
template <class... Args>
void error(const Args&... args) {
  write(Level::kError, concat(args...));
}

}  // namespace fbi::log
