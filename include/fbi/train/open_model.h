#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "fbi/distributed/communicator.h"
#include "fbi/formats/checkpoint_reader.h"
#include "fbi/nn/model_folder.h"

/// Opening the same on all ranks: of a run that is still saving, each could find another newest
/// checkpoint, so rank 0 chooses. Collective; an error of one rank is one on all.
namespace fbi::train {

/// The first of rank 0's `folders` that all ranks can read, null when there are none. Each compares
/// a part of the bytes with the manifest: by one alone that would take so long that the others
/// might give it up. One that some rank cannot read, or finds altered, is passed over with a
/// warning by all.
std::unique_ptr<formats::CheckpointReader> open_checkpoint_together(
    const std::vector<std::filesystem::path>& folders, distributed::Communicator& communicator);

/// As nn::open_model_folder.
nn::ModelFolder open_model_together(const std::filesystem::path& path,
                                    distributed::Communicator& communicator);

}  // namespace fbi::train
