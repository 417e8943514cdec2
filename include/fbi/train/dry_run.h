#pragma once

#include <filesystem>
#include <string>

#include "fbi/config/run_config.h"
#include "fbi/train/estimate.h"

namespace fbi::train {

/// Checks everything that can be checked without training, and returns a report for people:
/// parameters, batches, schedule, samples and epochs, the teacher's architecture, names and shapes
/// of train.init_from, memory and traffic of one of `world_size` ranks on `processor`, checkpoint
/// size against free disk. Throws what training would throw (UsageError, DataError). Writes nothing
/// but line indexes of data that have none.
std::string dry_run(const config::RunConfig& config, const std::filesystem::path& run_directory,
                    int world_size, Processor processor);

}  // namespace fbi::train
