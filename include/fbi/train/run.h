#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "fbi/config/run_config.h"
#include "fbi/distributed/communicator.h"
#include "fbi/train/metrics.h"

namespace fbi::train {

struct RunOptions {
  std::filesystem::path directory;
  std::string resume = "none";  ///< none | auto | a checkpoint folder
  /// Identity fields that may differ from the run that is continued.
  std::vector<std::string> allow_change;
  std::string command_line;        ///< recorded in environment.json
  std::int64_t profile_steps = 0;  ///< so many steps from the start are traced into trace.json
};

/// Shows a run to people; the files of the run directory are written without it.
class RunObserver {
 public:
  virtual ~RunObserver() = default;
  /// Before the first step; `first_step` > 0 when the run is continued.
  virtual void on_start(const config::RunConfig& config, std::int64_t first_step) = 0;
  virtual void on_step(const StepMetrics& metrics, const Pace& pace) = 0;
  /// Of a run that branches off also before on_start.
  virtual void on_checkpoint(std::int64_t step, const std::filesystem::path& folder) = 0;
  virtual void on_end() = 0;
};

enum class RunOutcome {
  kFinished,  ///< all steps done and saved
  kStopped,   ///< a signal asked for it; state saved
};

/// The configuration that a run directory was started with; nullopt when there is none.
std::optional<config::RunConfig> saved_run_config(const std::filesystem::path& directory);

/// The configuration of the run that `resume` (RunOptions) goes on with in `directory`, which may
/// be another one's checkpoint; for LoadOptions::continued. nullopt: a new run.
std::optional<config::RunConfig> continued_run_config(const std::filesystem::path& directory,
                                                      const std::string& resume);

/// Starts or continues a run and trains until train.steps, a signal, or too many non-finite steps
/// in a row (DivergedError naming the last checkpoint). Files: docs/architecture.md, "Files of a
/// run". A full disk while saving is logged and training goes on; only the last save of a run
/// throws DiskError.
RunOutcome run_training(config::RunConfig config, RunOptions options,
                        distributed::Communicator& communicator, RunObserver& observer);

}  // namespace fbi::train
