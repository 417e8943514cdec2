#pragma once

#include <memory>
#include <optional>

#include "fbi/checkpoint/run_directory.h"
#include "fbi/distributed/communicator.h"
#include "fbi/formats/checkpoint_reader.h"
#include "fbi/train/run.h"

namespace fbi::train {

/// The run directory as all ranks of a run see it: rank 0 holds the lock, chooses the checkpoint
/// and writes logs and metrics; all ranks read the checkpoint and write their rows of new ones.
class RunFolder {
 public:
  /// Opens it on rank 0, tells the others. Collective; an error on rank 0 is thrown on all. A
  /// checkpoint that some rank cannot read, or finds altered, is passed over with a warning by all.
  RunFolder(const RunOptions& options, distributed::Communicator& communicator);

  bool is_writer() const { return held_.has_value(); }
  /// Whether the folder held a run before.
  bool is_continued() const { return is_continued_; }
  const checkpoint::RunPaths& paths() const { return paths_; }
  /// Whether what it starts from belongs to another run.
  bool branches_off() const { return branches_off_; }
  /// What to start from, validated; null: step 0, or taken.
  const formats::CheckpointReader* checkpoint() const { return checkpoint_.get(); }
  /// The caller's from now on.
  std::unique_ptr<formats::CheckpointReader> take_checkpoint() { return std::move(checkpoint_); }
  /// On rank 0 of a run that branches off, before anything else is written: see
  /// RunDirectory::write_origin.
  void write_origin() { held_->write_origin(); }
  /// On rank 0, before anything is written: see RunDirectory::set_aside_later_than.
  void set_aside_later_than(std::int64_t step) { held_->set_aside_later_than(step); }
  /// On rank 0 of a run without a checkpoint of its own: see RunDirectory::set_metrics_aside.
  void set_metrics_aside(std::int64_t first_checkpoint) {
    held_->set_metrics_aside(first_checkpoint);
  }
  /// Shows other machines that the run is alive.
  void touch_lock();

 private:
  checkpoint::RunPaths paths_;
  std::optional<checkpoint::RunDirectory> held_;  ///< rank 0
  bool is_continued_ = false, branches_off_ = false;
  std::unique_ptr<formats::CheckpointReader> checkpoint_;
};

}  // namespace fbi::train
