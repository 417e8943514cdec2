#include "fbi/train/open_model.h"

#include <string>

#include "fbi/distributed/agreement.h"

namespace fbi::train {
namespace {

namespace fs = std::filesystem;

/// Those of rank 0, each with a zero behind it on the way.
std::vector<fs::path> of_first_rank(const std::vector<fs::path>& folders,
                                    distributed::Communicator& communicator) {
  std::string text;
  for (const fs::path& folder : folders) text += folder.string() + '\0';
  text = distributed::all_gather_text(communicator, text).front();
  std::vector<fs::path> result;
  std::size_t begin = 0;
  for (std::size_t end; (end = text.find('\0', begin)) != std::string::npos; begin = end + 1)
    result.emplace_back(text.substr(begin, end - begin));
  return result;
}

}  // namespace

std::unique_ptr<formats::CheckpointReader> open_checkpoint_together(
    const std::vector<fs::path>& folders, distributed::Communicator& communicator) {
  const auto open = [&](const fs::path& folder) {
    std::unique_ptr<formats::CheckpointReader> reader;
    distributed::run_together(communicator, [&] {
      reader = std::make_unique<formats::CheckpointReader>(folder, /*verify_hash=*/false);
      reader->check_bytes(static_cast<std::size_t>(communicator.rank()),
                          static_cast<std::size_t>(communicator.size()));
    });
    return reader;
  };
  return formats::open_first_valid(of_first_rank(folders, communicator), open);
}

nn::ModelFolder open_model_together(const fs::path& path, distributed::Communicator& communicator) {
  std::vector<fs::path> checkpoints;
  distributed::run_together(communicator, [&] {
    if (communicator.rank() == 0) checkpoints = formats::checkpoints_of(path);
  });
  if (auto reader = open_checkpoint_together(checkpoints, communicator))
    return nn::model_of_checkpoint(std::move(reader));
  return nn::open_model_folder(path);
}

}  // namespace fbi::train
