#pragma once

#include <filesystem>
#include <memory>

#include "fbi/formats/checkpoint_reader.h"

namespace fbi::test {

/// The newest valid one of all checkpoints below `checkpoints`, every byte of it compared; null
/// where there is none.
inline std::unique_ptr<formats::CheckpointReader> open_newest_checkpoint(
    const std::filesystem::path& checkpoints) {
  return formats::open_first_valid(formats::list_checkpoints(checkpoints), [](const auto& folder) {
    return std::make_unique<formats::CheckpointReader>(folder);
  });
}

}  // namespace fbi::test
