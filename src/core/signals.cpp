#include "fbi/core/signals.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <string_view>

namespace fbi {
namespace {

std::atomic<int> stop_signal = 0;
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may touch nothing else");

std::atomic<bool> at_terminal = false;
static_assert(std::atomic<bool>::is_always_lock_free);

extern "C" void remember_signal(int signal) {
  int none = 0;
  if (!stop_signal.compare_exchange_strong(none, signal) || signal != SIGINT || !at_terminal)
    return;
  constexpr std::string_view kText =
      "\nstopping when what has begun is done; Ctrl-C again ends at once and loses what is not "
      "saved\n";
  const int error = errno;
  [[maybe_unused]] const auto written = write(STDERR_FILENO, kText.data(), kText.size());
  errno = error;
}

void set_handler(int signal, void (*handler)(int), int flags) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  sigemptyset(&action.sa_mask);
  sigaction(signal, &action, nullptr);
}

/// A launcher may have blocked them, so that none ends the process while its libraries load.
void unblock_stop_signals() {
  sigset_t stop;
  sigemptyset(&stop);
  for (const int signal : stop_signals()) sigaddset(&stop, signal);
  sigprocmask(SIG_UNBLOCK, &stop, nullptr);
}

}  // namespace

std::vector<int> stop_signals() {
  std::vector<int> signals = {SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
  struct sigaction hang_up = {};
  // nohup ignores it, and the program is to outlive its terminal then.
  if (sigaction(SIGHUP, nullptr, &hang_up) == 0 && hang_up.sa_handler != SIG_IGN)
    signals.push_back(SIGHUP);
  return signals;
}

void install_stop_handlers() {
  at_terminal = isatty(STDERR_FILENO) == 1;
  for (const int signal : stop_signals()) set_handler(signal, remember_signal, SA_RESTART);
  // SA_RESETHAND: the next SIGINT meets the default action.
  set_handler(SIGINT, remember_signal, SA_RESTART | SA_RESETHAND);
  for (const int signal : {SIGXFSZ, SIGPIPE}) set_handler(signal, SIG_IGN, 0);
  unblock_stop_signals();
}

void keep_stop_actions() {
  set_handler(SIGXFSZ, SIG_IGN, 0);
  unblock_stop_signals();
}

int stop_requested() {
  return stop_signal.load(std::memory_order_relaxed);
}

void clear_stop_request() {
  stop_signal = 0;
}

}  // namespace fbi
