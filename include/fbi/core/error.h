#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace fbi {

/// Exit status of every program of this project; `cli` alone maps exceptions to it (docs/cli.md).
enum class ExitCode : int {
  kOk = 0,
  kUnexpected = 1,  ///< out of memory, a GPU failed, an error that nobody foresaw
  kUsage = 2,       ///< wrong command line or configuration
  kData = 3,        ///< training, evaluation or model data unreadable or broken
  kCheckpoint = 4,  ///< no usable checkpoint
  kPeer = 5,        ///< another rank was lost or timed out
  kDiverged = 6,    ///< too many non-finite steps in a row
  kDisk = 7,        ///< disk full or not writable
  kStopped = 75,    ///< stopped on request, state saved: run again to continue
};

/// Base of all exceptions that libraries here throw on purpose. The message names the place, the
/// value and the remedy; libraries never print, exit or abort.
class Error : public std::runtime_error {
 public:
  Error(ExitCode exit_code, const std::string& message)
      : std::runtime_error(message), exit_code_(exit_code) {}
  ExitCode exit_code() const noexcept { return exit_code_; }

 private:
  ExitCode exit_code_;
};

/// One class per exit code, so that a caller can catch what it can handle.
template <ExitCode code>
class ErrorOf : public Error {
 public:
  explicit ErrorOf(const std::string& message) : Error(code, message) {}
};

using UsageError = ErrorOf<ExitCode::kUsage>;
using DataError = ErrorOf<ExitCode::kData>;
using CheckpointError = ErrorOf<ExitCode::kCheckpoint>;
using PeerError = ErrorOf<ExitCode::kPeer>;
using DivergedError = ErrorOf<ExitCode::kDiverged>;
using DiskError = ErrorOf<ExitCode::kDisk>;
using StoppedError = ErrorOf<ExitCode::kStopped>;

/// Joins its arguments into one string through operator<<.
template <class... Args>
std::string concat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

/// The items of a range through operator<<, `separator` between them.
template <class Items>
std::string join(const Items& items, std::string_view separator = ", ") {
  std::ostringstream out;
  std::string_view between;
  for (const auto& item : items) {
    out << between << item;
    between = separator;
  }
  return out.str();
}

}  // namespace fbi
