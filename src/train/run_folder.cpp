#include "train/run_folder.h"

#include "fbi/distributed/agreement.h"

namespace fbi::train {

RunFolder::RunFolder(const RunOptions& options, distributed::Communicator& communicator)
    : paths_{options.directory} {
  const bool is_writer = communicator.rank() == 0;
  std::string found;  // "0" or "1" for is_continued, then the checkpoint's path
  distributed::run_together(communicator, [&] {
    if (!is_writer) return;
    held_ = checkpoint::RunDirectory::create_or_resume(
        options.directory, checkpoint::Resume::from_text(options.resume));
    checkpoint_ = held_->open_checkpoint();
    found = (held_->is_continued() ? "1" : "0") + (checkpoint_ ? checkpoint_->path().string() : "");
  });
  found = distributed::all_gather_text(communicator, found).front();
  is_continued_ = found.front() == '1';
  distributed::run_together(communicator, [&] {
    if (is_writer || found.size() == 1) return;
    // Rank 0 has compared every byte with the manifest; once is enough.
    checkpoint_ =
        std::make_unique<formats::CheckpointReader>(found.substr(1), /*verify_hash=*/false);
  });
}

void RunFolder::touch_lock() {
  if (held_) held_->lock().touch();
}

}  // namespace fbi::train
