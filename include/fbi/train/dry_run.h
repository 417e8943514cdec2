#pragma once

#include <string>

#include "fbi/config/run_config.h"
#include "fbi/estimate/estimate.h"
#include "fbi/train/run.h"

namespace fbi::train {

/// Checks everything that can be checked without training, and returns a report for people:
/// parameters, batches, schedule, samples and epochs, the teacher's architecture, names and shapes
/// of train.init_from, the run that would be continued, held-out data and tasks, memory and traffic
/// of one of `world_size` ranks on `processor`, checkpoint size against free disk, and of one rank
/// on the CPU how long what is left of the run takes at least, which half a second of products
/// tells. Notes say what is possible but hardly meant. Throws what training would throw. Writes
/// nothing but line indexes of data that have none.
std::string dry_run(const config::RunConfig& config, const RunOptions& options, int world_size,
                    estimate::Processor processor);

}  // namespace fbi::train
