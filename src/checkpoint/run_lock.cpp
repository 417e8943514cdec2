#include "fbi/checkpoint/run_lock.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <stop_token>
#include <thread>
#include <utility>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/log.h"
#include "fbi/core/system.h"

namespace fbi::checkpoint {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::int64_t kMaxGeneration = 99'999'999;
constexpr std::uint64_t kMaxLockBytes = 65536;

/// A process, so that its death can be told from anywhere. `machine` is equal only where pids mean
/// the same: same boot, same pid namespace.
struct Owner {
  std::string host, machine;
  std::int64_t pid = 0;
  std::uint64_t start_ticks = 0;
  std::string slurm_job;            ///< "" outside Slurm
  std::int64_t slurm_restarts = 0;  ///< of the job, when it was requeued
};

std::string first_line(const char* path) {
  try {
    const std::string text = read_file(path, kMaxLockBytes);
    return text.substr(0, text.find('\n'));
  } catch (const DataError&) {
    return {};
  }
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

Owner this_process() {
  std::error_code unreadable;
  const std::string pid_namespace = fs::read_symlink("/proc/self/ns/pid", unreadable).string();
  Owner owner;
  owner.host = host_name();
  owner.machine =
      owner.host + " " + first_line("/proc/sys/kernel/random/boot_id") + " " + pid_namespace;
  owner.pid = process_id();
  owner.start_ticks = process_start_ticks(owner.pid);
  owner.slurm_job = variable("SLURM_JOB_ID");
  owner.slurm_restarts = std::atoll(variable("SLURM_RESTART_COUNT").c_str());
  return owner;
}

std::string to_text(const Owner& owner) {
  return json{{"host", owner.host},
              {"machine", owner.machine},
              {"pid", owner.pid},
              {"start_ticks", owner.start_ticks},
              {"slurm_job", owner.slurm_job},
              {"slurm_restarts", owner.slurm_restarts}}
             .dump(-1, ' ', true, json::error_handler_t::replace) +
         "\n";
}

/// Text that is no lock of ours gives an owner that only time can prove dead.
Owner owner_from_text(const std::string& text) {
  const json parsed = json::parse(text, nullptr, false);
  Owner owner;
  try {
    owner.host = parsed.at("host").get<std::string>();
    owner.machine = parsed.at("machine").get<std::string>();
    owner.pid = parsed.at("pid").get<std::int64_t>();
    owner.start_ticks = parsed.at("start_ticks").get<std::uint64_t>();
    owner.slurm_job = parsed.at("slurm_job").get<std::string>();
    owner.slurm_restarts = parsed.at("slurm_restarts").get<std::int64_t>();
  } catch (const json::exception&) {
    owner = {};
    owner.host = "an unknown host";
  }
  return owner;
}

bool is_dead(const Owner& owner, std::chrono::seconds age, const Owner& self,
             std::chrono::seconds stale_after) {
  if (owner.machine == self.machine) {
    return !process_alive(owner.pid) || process_start_ticks(owner.pid) != owner.start_ticks;
  }
  const bool earlier_start = !self.slurm_job.empty() && owner.slurm_job == self.slurm_job &&
                             owner.slurm_restarts < self.slurm_restarts;
  return earlier_start || age > stale_after;
}

fs::path generation_path(const fs::path& folder, std::int64_t generation) {
  char name[24];
  std::snprintf(name, sizeof(name), "%08lld", static_cast<long long>(generation));
  return folder / name;
}

/// The number in a lock file's name, 0 for other names.
std::int64_t generation_of(const fs::path& path) {
  const std::string name = path.filename().string();
  if (name.size() != 8 || name.find_first_not_of("0123456789") != std::string::npos) return 0;
  return std::stoll(name);
}

template <class Visit>
void for_each_generation(const fs::path& folder, Visit&& visit) {
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    if (const std::int64_t generation = generation_of(entry->path())) visit(generation);
  }
  if (error) throw DiskError(concat("cannot list ", folder.string(), ": ", error.message()));
}

std::int64_t newest_generation(const fs::path& folder) {
  std::int64_t newest = 0;
  for_each_generation(folder,
                      [&](std::int64_t generation) { newest = std::max(newest, generation); });
  return newest;
}

std::optional<struct timespec> modified(const fs::path& path) {
  struct stat info = {};
  if (stat(path.c_str(), &info) != 0) return std::nullopt;
  return info.st_mtim;
}

std::atomic<unsigned> claims_of_this_process = 0;

/// This process's claim, written in full under a name of its own before it is linked.
class Claim {
 public:
  Claim(const fs::path& folder, const Owner& self)
      : path_(folder / concat("claim-", self.host, "-", self.pid, "-", self.start_ticks, "-",
                              claims_of_this_process++)) {
    const int descriptor = open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    const std::string text = to_text(self);
    bool written = descriptor >= 0 &&
                   write(descriptor, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    written = written && fsync(descriptor) == 0;
    const int error = errno;
    if (descriptor >= 0) close(descriptor);
    if (written) return;
    unlink(path_.c_str());
    throw DiskError(concat("cannot write the lock ", path_.string(), ": ", std::strerror(error)));
  }
  ~Claim() { unlink(path_.c_str()); }
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

  /// False when another process was first.
  bool link_as(const fs::path& target) const {
    if (link(path_.c_str(), target.c_str()) == 0) return true;
    int error = errno;
    struct stat info = {};  // NFS may lose the answer of a link that succeeded
    if (stat(path_.c_str(), &info) == 0 && info.st_nlink == 2) return true;
    // This file system has no links.
    if (error == EPERM || error == EOPNOTSUPP || error == ENOSYS || error == EMLINK) {
      if (renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target.c_str(), RENAME_NOREPLACE) == 0) {
        return true;
      }
      error = errno;
    }
    if (error == EEXIST) return false;
    throw DiskError(concat("cannot create the lock ", target.string(), ": ", std::strerror(error)));
  }

  /// Age of another file by the clock of the file system both lie in.
  std::chrono::seconds age_of(const struct timespec& other) const {
    utimensat(AT_FDCWD, path_.c_str(), nullptr, 0);
    const auto now = modified(path_);
    return std::chrono::seconds(now ? now->tv_sec - other.tv_sec : 0);
  }

 private:
  fs::path path_;
};

std::string lock_text(const fs::path& path) {
  try {
    return read_file(path, kMaxLockBytes);
  } catch (const DataError&) {
    return {};  // removed meanwhile by one who took over; the next look finds the higher number
  }
}

/// Throws while the owner of `generation` lives; reports a dead one. Released and vanished locks
/// pass.
void require_free(const fs::path& folder, std::int64_t generation, const Claim& claim,
                  const Owner& self, std::chrono::seconds stale_after) {
  const fs::path path = generation_path(folder, generation);
  const auto refreshed = modified(path);
  const std::string text = lock_text(path);
  if (!refreshed || text.empty()) return;
  const Owner owner = owner_from_text(text);
  const std::chrono::seconds age = claim.age_of(*refreshed);
  const std::string who = concat("process ", owner.pid, " on ", owner.host, " (lock refreshed ",
                                 age.count(), " s ago)");
  const std::string run = folder.parent_path().string();
  if (!is_dead(owner, age, self, stale_after)) {
    const bool elsewhere = owner.machine != self.machine;
    throw UsageError(concat("run directory ", run, " is in use by ", who,
                            ": stop that process or choose another run directory; if it is "
                            "surely gone, delete ",
                            folder.string(),
                            elsewhere ? concat(" (or wait: after ", stale_after.count(),
                                               " s without a sign of life it counts as dead)")
                                      : ""));
  }
  log::warn("run directory ", run, " was left by ", who, " without releasing it: taking it over");
}

}  // namespace

/// The thread that touches a lock until it is to end. What it cannot do, the owner's own touch()
/// reports.
class RunLock::Keeper {
 public:
  Keeper(fs::path file, std::chrono::milliseconds every)
      : thread_([this, file = std::move(file), every](std::stop_token stop) {
          std::unique_lock lock(mutex_);
          while (!end_.wait_for(lock, stop, every, [&] { return stop.stop_requested(); })) {
            [[maybe_unused]] const int ignored = utimensat(AT_FDCWD, file.c_str(), nullptr, 0);
          }
        }) {}

 private:
  std::mutex mutex_;
  std::condition_variable_any end_;
  std::jthread thread_;
};

RunLock::RunLock(const fs::path& run_directory, std::chrono::seconds stale_after)
    : folder_(run_directory / ".lock"), owner_pid_(process_id()) {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) throw DiskError(concat("cannot create ", folder_.string(), ": ", error.message()));
  const Owner self = this_process();
  const Claim claim(folder_, self);
  for (;;) {
    const std::int64_t newest = newest_generation(folder_);
    if (newest > 0) require_free(folder_, newest, claim, self, stale_after);
    if (newest >= kMaxGeneration) {
      throw DiskError(concat(folder_.string(), " is used up: delete it"));
    }
    const fs::path mine = generation_path(folder_, newest + 1);
    if (!claim.link_as(mine)) continue;
    // Someone may have taken and passed this number since the look above; then it was removed, and
    // a higher one is there.
    if (newest_generation(folder_) > newest + 1) {
      unlink(mine.c_str());
      continue;
    }
    generation_ = newest + 1;
    break;
  }
  for_each_generation(folder_, [&](std::int64_t generation) {
    if (generation < generation_) unlink(generation_path(folder_, generation).c_str());
  });
  keeper_ = std::make_unique<Keeper>(generation_path(folder_, generation_),
                                     std::chrono::milliseconds(stale_after) / 20);
}

RunLock::~RunLock() {
  release();
}

RunLock::RunLock(RunLock&& other) noexcept
    : folder_(std::move(other.folder_)),
      generation_(std::exchange(other.generation_, 0)),
      owner_pid_(other.owner_pid_),
      keeper_(std::move(other.keeper_)) {}

RunLock& RunLock::operator=(RunLock&& other) noexcept {
  if (this == &other) return *this;
  release();
  folder_ = std::move(other.folder_);
  generation_ = std::exchange(other.generation_, 0);
  owner_pid_ = other.owner_pid_;
  keeper_ = std::move(other.keeper_);
  return *this;
}

void RunLock::touch() {
  const fs::path mine = generation_path(folder_, generation_);
  if (utimensat(AT_FDCWD, mine.c_str(), nullptr, 0) == 0) return;
  const int error = errno;
  if (error != ENOENT) {
    throw DiskError(concat("cannot refresh the lock ", mine.string(), ": ", std::strerror(error)));
  }
  const Owner other =
      owner_from_text(lock_text(generation_path(folder_, newest_generation(folder_))));
  throw UsageError(concat("run directory ", folder_.parent_path().string(),
                          " was taken over by process ", other.pid, " on ", other.host,
                          " while this one stood still"));
}

void RunLock::release() noexcept {
  if (generation_ == 0) return;
  if (owner_pid_ != process_id()) {
    static_cast<void>(keeper_.release());  // a forked copy has no thread that could end
    return;
  }
  keeper_.reset();
  // Truncating needs no space and is one step. If it fails, the death of this process releases the
  // lock.
  [[maybe_unused]] const int ignored =
      truncate(generation_path(folder_, std::exchange(generation_, 0)).c_str(), 0);
}

}  // namespace fbi::checkpoint
