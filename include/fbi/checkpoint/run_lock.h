#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

namespace fbi::checkpoint {

/// Time without a sign of life after which the lock of another machine counts as left by a dead
/// process.
inline constexpr std::chrono::seconds kLockStaleAfter{600};

/// Holds a run directory for one process, on any file system whose renames and links are atomic; no
/// flock (NFS, Lustre).
///
/// `<run>/.lock/` holds one file per generation, written in full and then linked under its number,
/// which is exclusive. The highest number counts: empty means released, otherwise it names its
/// owner. Whoever takes over links the next number and then removes the lower ones, so the highest
/// is never removed and no number is given twice.
///
/// An owner on this machine is dead when its pid is, or belongs to a process that started at
/// another time; one elsewhere (another host, boot or container) when it has not touched the lock
/// for `stale_after` by the file server's clock, or when it is an earlier start of this very Slurm
/// job. A thread of the owner touches it all the time: loading a model, a step or a checkpoint may
/// take longer than that.
class RunLock {
 public:
  /// Throws UsageError naming host and pid while a live process holds the directory; DiskError when
  /// the directory can't be written. Taking over from a dead process is reported through log::warn.
  explicit RunLock(const std::filesystem::path& run_directory,
                   std::chrono::seconds stale_after = kLockStaleAfter);
  /// Releases the lock, except in a forked copy of the owner.
  ~RunLock();
  RunLock(RunLock&& other) noexcept;
  RunLock& operator=(RunLock&& other) noexcept;

  /// Says "still alive" at once. Throws UsageError when another process has taken the directory
  /// meanwhile (this one was stopped for too long) and DiskError when the lock can't be reached.
  void touch();

 private:
  void release() noexcept;

  std::filesystem::path folder_;
  std::int64_t generation_ = 0;  ///< 0: holds nothing
  std::int64_t owner_pid_ = 0;
  class Keeper;
  std::unique_ptr<Keeper> keeper_;
};

}  // namespace fbi::checkpoint
