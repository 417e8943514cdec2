#include "train/run_folder.h"

#include <filesystem>
#include <string>
#include <vector>

#include "fbi/distributed/agreement.h"

namespace fbi::train {
namespace {

namespace fs = std::filesystem;

/// What rank 0 finds, for all ranks: whether it is a run and whether it branches off, "0" or "1"
/// each, then the checkpoints to try, each with a zero behind it.
std::string to_text(const checkpoint::RunDirectory& directory) {
  std::string text = directory.is_continued() ? "1" : "0";
  text += directory.branches_off() ? "1" : "0";
  for (const fs::path& folder : directory.checkpoints_to_try()) text += folder.string() + '\0';
  return text;
}

std::vector<fs::path> checkpoints_in(const std::string& text) {
  std::vector<fs::path> folders;
  std::size_t begin = 2;
  for (std::size_t end; (end = text.find('\0', begin)) != std::string::npos; begin = end + 1)
    folders.emplace_back(text.substr(begin, end - begin));
  return folders;
}

/// Each rank compares a part of the bytes with the manifest: by one alone it would take so long
/// that the others might give it up.
std::unique_ptr<formats::CheckpointReader> open_together(const fs::path& folder,
                                                         distributed::Communicator& communicator) {
  std::unique_ptr<formats::CheckpointReader> reader;
  distributed::run_together(communicator, [&] {
    reader = std::make_unique<formats::CheckpointReader>(folder, /*verify_hash=*/false);
    reader->check_bytes(static_cast<std::size_t>(communicator.rank()),
                        static_cast<std::size_t>(communicator.size()));
  });
  return reader;
}

}  // namespace

RunFolder::RunFolder(const RunOptions& options, distributed::Communicator& communicator)
    : paths_{options.directory} {
  std::string found;
  distributed::run_together(communicator, [&] {
    if (communicator.rank() != 0) return;
    held_ = checkpoint::RunDirectory::create_or_resume(
        options.directory, checkpoint::Resume::from_text(options.resume));
    found = to_text(*held_);
  });
  found = distributed::all_gather_text(communicator, found).front();
  is_continued_ = found[0] == '1';
  branches_off_ = found[1] == '1';
  checkpoint_ = formats::open_first_valid(checkpoints_in(found), [&](const fs::path& folder) {
    return open_together(folder, communicator);
  });
}

void RunFolder::touch_lock() {
  if (held_) held_->lock().touch();
}

}  // namespace fbi::train
