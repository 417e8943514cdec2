#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

#include "fbi/checkpoint/run_lock.h"
#include "fbi/formats/checkpoint_reader.h"

namespace fbi::checkpoint {

/// Where the parts of a run lie (design: files).
struct RunPaths {
  std::filesystem::path root;
  /// Resolved configuration.
  std::filesystem::path config() const { return root / "config.json"; }
  /// Machine and program.
  std::filesystem::path environment() const { return root / "environment.json"; }
  std::filesystem::path metrics() const { return root / "metrics.jsonl"; }
  std::filesystem::path log() const { return root / "train.log"; }
  std::filesystem::path checkpoints() const { return root / "checkpoints"; }
  std::filesystem::path exports() const { return root / "export"; }
};

/// --resume none | auto | FOLDER
struct Resume {
  enum class Mode { kNone, kAuto, kPath };
  Mode mode = Mode::kNone;
  std::filesystem::path checkpoint;  ///< kPath: a checkpoint folder
  static Resume from_text(const std::string& text);
};

/// A run directory held by this process (of several ranks, only rank 0 opens it).
class RunDirectory {
 public:
  /// none: the folder must be new or empty. auto: new, empty, or a run, which then continues.
  /// FOLDER: new or empty, or the run that FOLDER belongs to, when that has no later checkpoint. A
  /// folder that does not qualify is not touched: UsageError. While a live process holds it:
  /// UsageError naming host and pid. Not writable: DiskError. A run that is continued is freed of
  /// what killed processes left in checkpoints/.
  static RunDirectory create_or_resume(const std::filesystem::path& directory, const Resume& resume,
                                       std::chrono::seconds lock_stale_after = kLockStaleAfter);

  const RunPaths& paths() const { return paths_; }
  /// Whether the directory held a run before.
  bool is_continued() const { return is_continued_; }
  /// The checkpoint to start from, validated: the one asked for; with auto the newest valid one of
  /// this run. nullptr: start at step 0. Throws CheckpointError when there is one and none can be
  /// used.
  std::unique_ptr<formats::CheckpointReader> open_checkpoint() const;
  RunLock& lock() { return lock_; }

 private:
  RunDirectory(RunPaths paths, Resume resume, bool is_continued, RunLock lock);

  RunPaths paths_;
  Resume resume_;
  bool is_continued_;
  RunLock lock_;
};

}  // namespace fbi::checkpoint
