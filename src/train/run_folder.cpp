#include "train/run_folder.h"

#include <filesystem>
#include <string>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/distributed/agreement.h"
#include "fbi/train/open_model.h"

namespace fbi::train {

RunFolder::RunFolder(const RunOptions& options, distributed::Communicator& communicator)
    : paths_{options.directory} {
  std::string flags;  // of rank 0: is_continued, branches_off
  std::vector<std::filesystem::path> checkpoints;
  distributed::run_together(communicator, [&] {
    if (communicator.rank() != 0) return;
    held_ = checkpoint::RunDirectory::create_or_resume(
        options.directory, checkpoint::Resume::from_text(options.resume));
    checkpoints = held_->checkpoints_to_try();
    flags = concat(held_->is_continued(), held_->branches_off());
  });
  flags = distributed::all_gather_text(communicator, flags).front();
  is_continued_ = flags[0] == '1';
  branches_off_ = flags[1] == '1';
  checkpoint_ = open_checkpoint_together(checkpoints, communicator);
}

void RunFolder::touch_lock() {
  if (held_) held_->lock().touch();
}

}  // namespace fbi::train
