#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "fbi/checkpoint/run_lock.h"

namespace fbi::checkpoint {

/// Where the parts of a run lie (docs/architecture.md, "Files of a run").
struct RunPaths {
  std::filesystem::path root;
  /// Resolved configuration.
  std::filesystem::path config() const { return root / "config.json"; }
  /// Machine and program.
  std::filesystem::path environment() const { return root / "environment.json"; }
  std::filesystem::path metrics() const { return root / "metrics.jsonl"; }
  std::filesystem::path log() const { return root / "train.log"; }
  std::filesystem::path checkpoints() const { return root / "checkpoints"; }
  /// Of a run that branched off another one: the path of the checkpoint that it began from.
  std::filesystem::path origin() const { return root / "branched-from.txt"; }
};

/// --resume none | auto | FOLDER
struct Resume {
  enum class Mode { kNone, kAuto, kPath };
  Mode mode = Mode::kNone;
  std::filesystem::path checkpoint;  ///< kPath: a checkpoint folder
  static Resume from_text(const std::string& text);
};

/// Throws what RunDirectory::create_or_resume would, as far as can be told without touching the
/// folder; a live owner is not looked for.
void require_usable(const RunPaths& paths, const Resume& resume);

/// Whether `checkpoint` lies in the run's own folder; else a run that starts from it branches off.
bool is_of_run(const RunPaths& paths, const std::filesystem::path& checkpoint);

/// The checkpoints to start from, the first that is valid: the one asked for; with auto those of
/// the run, newest first, or, as long as it has none, the one that it branched off from. None:
/// start at step 0.
std::vector<std::filesystem::path> checkpoints_to_try(const RunPaths& paths, const Resume& resume);

/// A run directory held by this process (of several ranks, only rank 0 opens it).
class RunDirectory {
 public:
  /// none: the folder must be new or empty. auto: new, empty, or a run, which then continues.
  /// FOLDER: new or empty, a run without checkpoints, or the run that FOLDER belongs to, when that
  /// has no later checkpoint. A folder that does not qualify is not touched: UsageError. While a
  /// live process holds it: UsageError naming host and pid. Not writable: DiskError. A run that is
  /// continued is freed of what killed processes left in checkpoints/.
  static RunDirectory create_or_resume(const std::filesystem::path& directory,
                                       const Resume& resume);

  const RunPaths& paths() const { return paths_; }
  /// Whether the directory held a run before.
  bool is_continued() const { return is_continued_; }
  /// Whether it is to go on from a checkpoint of another run.
  bool branches_off() const;
  /// Notes from where, before anything else makes the folder a run: killed before it has a
  /// checkpoint of its own, it begins from there again.
  void write_origin() const;
  /// fbi::checkpoint::checkpoints_to_try of this run.
  std::vector<std::filesystem::path> checkpoints_to_try() const;
  /// Renames checkpoints of later steps than `step`, from which the run goes on: they could not be
  /// used, but if they can be later, they belong to another history. A warning names each.
  void set_aside_later_than(std::int64_t step) const;
  /// A run without a checkpoint of its own begins again. If its metrics reach further than the step
  /// of its first checkpoint (0: not known), it has lost its checkpoints, or could not save any:
  /// then they are renamed, with a warning.
  void set_metrics_aside(std::int64_t first_checkpoint) const;
  RunLock& lock() { return lock_; }

 private:
  RunDirectory(RunPaths paths, Resume resume, bool is_continued, RunLock lock);

  RunPaths paths_;
  Resume resume_;
  bool is_continued_;
  RunLock lock_;
};

}  // namespace fbi::checkpoint
