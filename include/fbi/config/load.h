#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "fbi/config/run_config.h"

namespace fbi::config {

struct LoadOptions {
  /// `key=value`, e.g. "optimizer.lr=2e-4", applied in order over the file. The value is JSON, else
  /// plain text; an object is merged into what the file has.
  std::vector<std::string> overrides;
  std::int64_t world_size = 1;  ///< ranks that share train.global_batch
  /// The configuration of the run that is continued: gives what it fixed for good
  /// (optimizer.schedule_micro_steps).
  const RunConfig* continued = nullptr;
};

/// Reads a run configuration (JSON with comments), applies overrides, checks everything and
/// resolves what follows from other fields. All problems are thrown together as one UsageError:
/// dotted path, value, what was expected, nearest valid key. `model` may name an architecture file:
/// relative to the configuration's folder, or in an override to the current folder.
RunConfig load_run_config(const std::filesystem::path& file, const LoadOptions& options = {});

/// The same from text; `source_name` stands in messages, `folder` is where a relative `model` path
/// starts.
RunConfig parse_run_config(std::string_view text, const std::string& source_name,
                           const std::filesystem::path& folder, const LoadOptions& options = {});

/// An architecture alone: a config.json as Hugging Face writes it (DataError), or the `model` of a
/// run configuration, whatever else that lacks (UsageError).
ModelConfig load_model_config(const std::filesystem::path& file);

/// Fills in head_dim and num_key_value_heads where they are 0.
void resolve(ModelConfig& model);

/// Fills in all derived values of a valid configuration; does nothing to a resolved one.
void resolve(RunConfig& config, std::int64_t world_size, const RunConfig* continued = nullptr);

/// Ranges and rules across fields, all violations in one UsageError. For configurations built in
/// code; loading does it itself.
void validate(const RunConfig& config, std::int64_t world_size);

/// global_batch / (micro_batch · world_size); UsageError when it does not divide.
std::int64_t micro_steps_per_step(const TrainConfig& train, std::int64_t world_size);

}  // namespace fbi::config
