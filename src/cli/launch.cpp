#include "cli/launch.h"

#include <poll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "cli/launch_output.h"
#include "cli/launch_process.h"
#include "fbi/core/error.h"
#include "fbi/core/log.h"
#include "fbi/core/signals.h"
#include "fbi/core/system.h"
#include "fbi/distributed/rendezvous.h"

namespace fbi::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPeerLost = static_cast<int>(ExitCode::kPeer),
              kStopped = static_cast<int>(ExitCode::kStopped);

/// Signals arrive at a descriptor instead of handlers while the object lives.
class SignalQueue {
 public:
  SignalQueue() {
    sigemptyset(&stop_);
    for (const int signal : stop_signals()) sigaddset(&stop_, signal);
    sigset_t all = stop_;
    sigaddset(&all, SIGCHLD);
    sigprocmask(SIG_BLOCK, &all, &before_);
    descriptor_ = Descriptor(signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK));
  }
  ~SignalQueue() { sigprocmask(SIG_SETMASK, &before_, nullptr); }
  SignalQueue(const SignalQueue&) = delete;
  SignalQueue& operator=(const SignalQueue&) = delete;

  int descriptor() const { return descriptor_.get(); }
  std::optional<int> next() {
    signalfd_siginfo info;
    if (read(descriptor_.get(), &info, sizeof info) != sizeof info) return std::nullopt;
    return static_cast<int>(info.ssi_signo);
  }
  /// For a program that sets its handlers first and then unblocks: nothing that arrives while its
  /// libraries load ends it.
  sigset_t mask_of_own_program() const {
    sigset_t mask = before_;
    sigorset(&mask, &before_, &stop_);
    return mask;
  }
  const sigset_t& mask_before() const { return before_; }

 private:
  sigset_t stop_, before_;
  Descriptor descriptor_;
};

std::string describe(const RankEnd& end, int rank, pid_t pid) {
  const std::string who = concat("rank ", rank, " (process ", pid, ") ");
  if (end.code > 128)
    return concat(who, "was ended by signal ", end.code - 128, " (", strsignal(end.code - 128),
                  ")");
  return concat(who, "ended with exit code ", end.code);
}

class Launcher {
 public:
  explicit Launcher(const LaunchOptions& options) : options_(options) {}

  ~Launcher() { signal_all(SIGKILL); }  // an exception between starts leaves nobody behind
  Launcher(const Launcher&) = delete;
  Launcher& operator=(const Launcher&) = delete;

  int run() {
    for (int rank = 0; rank < options_.processes; ++rank) start(rank);
    while (alive_ > 0) {
      wait_for_events();
      for (auto& stream : streams_) stream.read();
      while (const auto signal = signals_.next()) handle(*signal);
      collect_ends();
      if (kill_at_ && Clock::now() >= *kill_at_) kill_the_rest();
    }
    for (auto& stream : streams_) stream.read();
    return report();
  }

 private:
  struct Rank {
    pid_t pid = 0;
    bool alive = false;
    int errors = -1;  ///< index of the stream that keeps its last lines
  };

  void start(int rank) {
    ProcessStart start;
    start.program = options_.program.empty() ? "/proc/self/exe" : options_.program;
    start.arguments = {options_.program.empty() ? "fbi-llm" : options_.program};
    start.arguments.insert(start.arguments.end(), options_.arguments.begin(),
                           options_.arguments.end());
    start.environment = environment_of(rank);
    start.signal_mask =
        options_.program.empty() ? signals_.mask_of_own_program() : signals_.mask_before();
    Descriptor output, error;  // the writing ends; the child has copies
    if (options_.output == LaunchOutput::kPrefixed) {
      output = capture(rank, STDOUT_FILENO);
      error = capture(rank, STDERR_FILENO);
    } else if (rank > 0) {
      error = capture(rank, -1);
    }
    const bool plain = options_.output == LaunchOutput::kFirstRank && rank == 0;
    start.output = plain ? STDOUT_FILENO : output.get();
    start.error = plain ? STDERR_FILENO : error.get();
    const int errors = plain ? -1 : static_cast<int>(streams_.size()) - 1;
    ranks_.push_back({start_process(start), true, errors});
    ++alive_;
  }

  Descriptor capture(int rank, int target) {
    Pipe pipe;
    streams_.emplace_back(std::move(pipe.read), concat("[", global(rank), "] "), target);
    return std::move(pipe.write);
  }

  /// Of one among the ranks of all nodes; what counts ranks here counts those of this one.
  int global(int rank) const { return options_.node * options_.processes + rank; }

  std::map<std::string, std::string> environment_of(int rank) const {
    const bool alone = options_.nodes == 1;
    auto environment = distributed::current_environment();
    environment["RANK"] = std::to_string(global(rank));
    environment["LOCAL_RANK"] = std::to_string(rank);
    environment["WORLD_SIZE"] = std::to_string(options_.nodes * options_.processes);
    environment["MASTER_ADDR"] = alone ? "127.0.0.1" : options_.master_host;
    environment["MASTER_PORT"] = std::to_string(alone ? port_.number() : options_.master_port);
    environment.emplace("OMP_NUM_THREADS",
                        std::to_string(std::max(1, usable_processors() / options_.processes)));
    return environment;
  }

  void wait_for_events() {
    std::vector<pollfd> events{{signals_.descriptor(), POLLIN, 0}};
    for (const auto& stream : streams_)
      if (stream.open()) events.push_back({stream.descriptor(), POLLIN, 0});
    std::chrono::milliseconds wait{-1};
    if (kill_at_)
      wait = std::max(std::chrono::ceil<std::chrono::milliseconds>(*kill_at_ - Clock::now()),
                      std::chrono::milliseconds{0});
    poll(events.data(), events.size(), static_cast<int>(wait.count()));
  }

  void handle(int signal) {
    if (signal == SIGCHLD) return;  // collect_ends() follows
    if (signal == SIGINT && interrupted_)
      kill_the_rest();
    else
      signal_all(signal);
    interrupted_ = interrupted_ || signal == SIGINT;
  }

  void collect_ends() {
    for (std::size_t i = 0; i < ranks_.size(); ++i) {
      int status = 0;
      if (!ranks_[i].alive || waitpid(ranks_[i].pid, &status, WNOHANG) != ranks_[i].pid) continue;
      ranks_[i].alive = false;
      --alive_;
      const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
      ends_.push_back({static_cast<int>(i), signal ? 128 + signal : WEXITSTATUS(status),
                       (signal == SIGTERM && ending_) || (signal == SIGKILL && killed_)});
    }
    const bool failed = std::any_of(ends_.begin(), ends_.end(), [](const RankEnd& end) {
      return end.code != 0 && end.code != kStopped;
    });
    if (failed && !ending_ && alive_ > 0) {
      ending_ = true;
      signal_all(SIGTERM);
      kill_at_ = Clock::now() + options_.grace;
    }
  }

  void kill_the_rest() {
    killed_ = ending_ = true;
    kill_at_.reset();
    signal_all(SIGKILL);
  }

  void signal_all(int signal) {
    for (const auto& rank : ranks_)
      if (rank.alive) kill(-rank.pid, signal);
  }

  int report() const {
    const RankEnd& end = decisive_end(ends_);
    if (end.code == 0 || end.code == kStopped) return end.code;
    const Rank& rank = ranks_[static_cast<std::size_t>(end.rank)];
    if (rank.errors >= 0) streams_[static_cast<std::size_t>(rank.errors)].show_kept(STDERR_FILENO);
    log::error(describe(end, global(end.rank), rank.pid),
               options_.processes > 1 ? "; the other ranks have been ended" : "");
    return end.code;
  }

  const LaunchOptions& options_;
  ReservedPort port_;
  SignalQueue signals_;
  std::vector<Rank> ranks_;
  std::vector<LineStream> streams_;
  std::vector<RankEnd> ends_;
  int alive_ = 0;
  bool interrupted_ = false;  ///< a SIGINT was passed on
  bool ending_ = false;       ///< SIGTERM was sent because a rank had failed
  bool killed_ = false;
  std::optional<Clock::time_point> kill_at_;
};

int weight(const RankEnd& end) {
  if (end.by_launcher) return 0;
  if (end.code == 0) return 1;
  if (end.code == kStopped) return 2;
  return end.code == kPeerLost ? 3 : 4;
}

}  // namespace

const RankEnd& decisive_end(const std::vector<RankEnd>& ends) {
  return *std::max_element(ends.begin(), ends.end(), [](const RankEnd& a, const RankEnd& b) {
    return weight(a) < weight(b);
  });
}

int launch_ranks(const LaunchOptions& options) {
  return Launcher(options).run();
}

}  // namespace fbi::cli
