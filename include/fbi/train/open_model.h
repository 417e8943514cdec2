#pragma once

#include <filesystem>

#include "fbi/distributed/communicator.h"
#include "fbi/nn/model_folder.h"

namespace fbi::train {

/// nn::open_model_folder, of the same folder on all ranks: of a run that is still saving, each
/// could find another newest checkpoint, so rank 0 chooses. Collective; an error on rank 0 is one
/// on all.
nn::ModelFolder open_model_together(const std::filesystem::path& path,
                                    distributed::Communicator& communicator);

}  // namespace fbi::train
