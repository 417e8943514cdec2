#pragma once

#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <functional>
#include <stdexcept>

namespace fbi::test {

/// A forked copy of this process that runs `body` and ends without cleaning up: 0, or 1 after
/// printing what was thrown.
class Child {
 public:
  explicit Child(const std::function<void()>& body) : pid_(fork()) {
    if (pid_ < 0) throw std::runtime_error("fork failed");
    if (pid_ > 0) return;
    int status = 0;
    try {
      body();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "child: %s\n", error.what());
      status = 1;
    }
    _exit(status);
  }
  ~Child() {
    if (pid_ > 0) wait();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  /// Status as of waitpid.
  int wait() {
    int status = 0;
    if (waitpid(pid_, &status, 0) != pid_) throw std::runtime_error("waitpid failed");
    pid_ = -1;
    return status;
  }

 private:
  pid_t pid_;
};

/// Two pipes' worth of turns between parent and child: signal() on one side lets wait() on the
/// other return.
class Turn {
 public:
  Turn() {
    if (pipe(ends_) != 0) throw std::runtime_error("pipe failed");
  }
  ~Turn() {
    close(ends_[0]);
    close(ends_[1]);
  }
  void signal() {
    if (write(ends_[1], "x", 1) != 1) throw std::runtime_error("write failed");
  }
  void wait() {
    char byte = 0;
    if (read(ends_[0], &byte, 1) != 1) throw std::runtime_error("read failed");
  }

 private:
  int ends_[2] = {-1, -1};
};

}  // namespace fbi::test
