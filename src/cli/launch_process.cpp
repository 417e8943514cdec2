#include "cli/launch_process.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "fbi/core/error.h"

namespace fbi::cli {
namespace {

[[noreturn]] void fail(const char* action) {
  throw std::system_error(errno, std::generic_category(), concat("cannot ", action));
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> result;
  for (auto& word : words) result.push_back(word.data());
  result.push_back(nullptr);
  return result;
}

/// Between fork and exec: only calls that are safe there. Returns when something failed, errno set.
void become(const ProcessStart& start, char** arguments, char** environment, pid_t parent) {
  setpgid(0, 0);
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return;
  if (getppid() != parent) _exit(1);  // it died before the line above
  for (const int signal : {SIGPIPE, SIGXFSZ}) ::signal(signal, SIG_DFL);
  const int nowhere = open("/dev/null", O_RDWR);
  if (nowhere < 0 || dup2(nowhere, STDIN_FILENO) < 0) return;
  if (dup2(start.output < 0 ? nowhere : start.output, STDOUT_FILENO) < 0) return;
  if (dup2(start.error < 0 ? nowhere : start.error, STDERR_FILENO) < 0) return;
  if (nowhere > STDERR_FILENO) close(nowhere);
  sigprocmask(SIG_SETMASK, &start.signal_mask, nullptr);
  execvpe(start.program.c_str(), arguments, environment);
}

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this != &other) {
    close();
    value_ = other.release();
  }
  return *this;
}

void Descriptor::close() {
  if (value_ >= 0) ::close(value_);
  value_ = -1;
}

int Descriptor::release() {
  return std::exchange(value_, -1);
}

Pipe::Pipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) fail("make a pipe");
  read = Descriptor(ends[0]);
  write = Descriptor(ends[1]);
}

ReservedPort::ReservedPort() {
  socket_ = Descriptor(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  socklen_t size = sizeof address;
  const int on = 1;
  if (!socket_.open() || setsockopt(socket_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0)
    fail("find a free port");
  number_ = ntohs(address.sin_port);
}

pid_t start_process(const ProcessStart& start) {
  std::vector<std::string> words = start.arguments, variables;
  for (const auto& [name, value] : start.environment) variables.push_back(name + "=" + value);
  const auto arguments = pointers(words), environment = pointers(variables);
  Pipe trouble;  // closed by a successful exec
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) fail("start a process");
  if (child == 0) {
    become(start, const_cast<char**>(arguments.data()), const_cast<char**>(environment.data()),
           parent);
    const int reason = errno;
    [[maybe_unused]] const auto written = ::write(trouble.write.get(), &reason, sizeof reason);
    _exit(127);
  }
  setpgid(child, child);  // as the child does itself, whoever comes first
  trouble.write.close();
  int reason = 0;
  ssize_t got;
  do got = ::read(trouble.read.get(), &reason, sizeof reason);
  while (got < 0 && errno == EINTR);
  if (got == sizeof reason) {
    waitpid(child, nullptr, 0);
    throw UsageError(concat("cannot start ", start.program, ": ", std::strerror(reason)));
  }
  return child;
}

}  // namespace fbi::cli
