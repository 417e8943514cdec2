#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "fbi/config/run_config.h"
#include "fbi/train/run.h"
#include "train/inputs.h"

namespace fbi::train {

/// Identity fields must be those of the saved run, which has come to `step`, except the ones that
/// the user allows by name: UsageError naming each. That, and a warning of what is allowed, say
/// when the learning rate leaps.
void check_identity(const config::RunConfig& saved, const config::RunConfig& current,
                    std::int64_t step, const std::vector<std::string>& allowed);

/// Goes on from `checkpoint`, or from a run that has only its configuration, `saved`, or begins
/// (both absent). The same check, with what the paths of both hold in the place of the paths as far
/// as that is recorded. Returns what `current` reads from now on.
Inputs check_inputs(const formats::CheckpointReader* checkpoint,
                    const std::optional<config::RunConfig>& saved, const config::RunConfig& current,
                    const std::vector<std::string>& allowed);

/// A run that branches off must have steps to take: UsageError.
void check_branch(const formats::CheckpointReader& origin, const config::TrainConfig& train);

/// auto means what it meant when the run began: another processor must not change the arithmetic
/// unseen. A GPU has no tables: there a run of a CPU goes on with dense products, and says so.
/// `saved`: of the run that is continued, if any. UsageError for what the device cannot do.
void keep_sign_products(config::RunConfig& config, RunOptions& options,
                        const std::optional<config::RunConfig>& saved, at::Device device);

}  // namespace fbi::train
