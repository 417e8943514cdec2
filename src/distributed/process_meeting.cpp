#include "distributed/process_meeting.h"

#include <c10/util/Logging.h>
#include <signal.h>

#include <future>
#include <mutex>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "distributed/handshake.h"
#include "fbi/core/error.h"
#include "fbi/core/system.h"

namespace fbi::distributed {
namespace {

constexpr std::chrono::milliseconds kAnswerTime{1000};  ///< for an answer after the last attempt
constexpr std::chrono::milliseconds kBetweenLooks{100};

// Counted, because the one that makes a group ends while that of the group lives on.
std::mutex log_level_mutex;
int quiet_ones = 0, usual_log_level = 0;

/// Gloo writes to sockets whose peer may be gone; by default that would end the process instead of
/// giving an error.
void ignore_broken_pipes() {
  struct sigaction action = {};
  if (sigaction(SIGPIPE, nullptr, &action) != 0 || action.sa_handler != SIG_DFL) return;
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);
}

/// The constructor waits without limit for a program that takes connections and never answers, and
/// heeds no stop; the thread that does so is left behind then.
StorePointer make_store(const std::string& address, const c10d::TCPStoreOptions& options) {
  std::packaged_task<StorePointer()> task(
      [=]() -> StorePointer { return c10::make_intrusive<c10d::TCPStore>(address, options); });
  auto store = task.get_future();
  std::thread(std::move(task)).detach();
  const auto deadline = std::chrono::steady_clock::now() + options.timeout + kAnswerTime;
  while (store.wait_for(kBetweenLooks) != std::future_status::ready) {
    heed_stop();
    if (std::chrono::steady_clock::now() > deadline)
      throw PeerError("nobody answers there, or another kind of program");
  }
  return store.get();
}

StorePointer open_store(const Rendezvous& rendezvous, const ProcessGroupOptions& options) {
  c10d::TCPStoreOptions store;
  store.port = static_cast<std::uint16_t>(rendezvous.master_port);
  store.isServer = rendezvous.rank == 0;
  store.waitWorkers = false;
  store.timeout = options.start_timeout;
  try {
    StorePointer opened = make_store(rendezvous.master_addr, store);
    if (rendezvous.attempt.empty()) return opened;
    return c10::make_intrusive<c10d::PrefixStore>(rendezvous.attempt, std::move(opened));
  } catch (const StoppedError&) {
    throw;
  } catch (const std::exception& error) {
    const std::string place = concat(rendezvous.master_addr, ":", rendezvous.master_port);
    if (store.isServer) {
      throw UsageError(concat(
          "rank 0 can't listen at ", place,
          ", another program may use the port (set another MASTER_PORT): ", message_of(error)));
    }
    // It may only be late.
    throw PeerError(concat("rank ", rendezvous.rank, " can't reach rank 0 at ", place, " (",
                           options.start_timeout.count(), " ms): ", message_of(error)));
  }
}

}  // namespace

QuietLibTorch::QuietLibTorch() {
  const std::lock_guard lock(log_level_mutex);
  if (quiet_ones++ > 0) return;
  usual_log_level = FLAGS_caffe2_log_level;
  FLAGS_caffe2_log_level = static_cast<int>(c10::GLOG_FATAL);
}

QuietLibTorch::~QuietLibTorch() {
  const std::lock_guard lock(log_level_mutex);
  if (--quiet_ones == 0) FLAGS_caffe2_log_level = usual_log_level;
}

std::string message_of(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  return torch_error ? torch_error->what_without_backtrace() : error.what();
}

void throw_lost(Pulse& pulse, const std::string& operation, const std::string& reason) {
  const std::string missing = pulse.find_missing();
  throw PeerError(concat(operation, ": ",
                         missing.empty() ? "a rank was lost or stands still" : missing, ": ",
                         reason));
}

Met meet(const Rendezvous& rendezvous, const ProcessGroupOptions& options, const std::string& gpu) {
  ignore_broken_pipes();
  const StorePointer store = open_store(rendezvous, options);
  const Hello hello{rendezvous.rank, rendezvous.world_size, host_name(),
                    process_id(),    options.must_agree,    gpu};
  try {
    auto pulse = std::make_shared<Pulse>(store, hello);
    shake_hands(*store, hello, options.start_timeout);
    pulse->start();
    return {store, std::move(pulse)};
  } catch (const c10::Error& error) {
    throw PeerError(concat("rank ", rendezvous.rank,
                           " lost rank 0 before all ranks had met: ", message_of(error)));
  }
}

}  // namespace fbi::distributed
