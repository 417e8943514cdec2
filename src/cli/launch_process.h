#pragma once

#include <signal.h>
#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

namespace fbi::cli {

/// A file descriptor with an owner.
class Descriptor {
 public:
  explicit Descriptor(int value = -1) : value_(value) {}
  ~Descriptor() { close(); }
  Descriptor(Descriptor&& other) noexcept : value_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  int get() const { return value_; }
  bool open() const { return value_ >= 0; }
  void close();

 private:
  int release();
  int value_;
};

/// Both ends of a pipe, closed when another program is executed. Throws std::system_error.
struct Pipe {
  Pipe();
  Descriptor read, write;
};

/// A TCP port of this machine that the kernel gives to nobody else while the object lives: bound,
/// but not listening, so that a server that sets SO_REUSEADDR, as all do, can listen at it. Throws
/// std::system_error when there is none.
class ReservedPort {
 public:
  ReservedPort();
  int number() const { return number_; }

 private:
  Descriptor socket_;
  int number_ = 0;
};

struct ProcessStart {
  std::string program;                 ///< path, or a name to be found in PATH
  std::vector<std::string> arguments;  ///< the program's name first
  std::map<std::string, std::string> environment;
  int output = -1, error = -1;  ///< become standard output and error; -1: nowhere
  sigset_t signal_mask;         ///< of the new program
};

/// Starts a program in a process group of its own, with empty standard input and default signal
/// handling; the kernel kills it when the calling thread ends. Throws UsageError naming the program
/// when it can't be executed.
pid_t start_process(const ProcessStart& start);

}  // namespace fbi::cli
