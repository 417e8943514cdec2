#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "fbi/config/compare.h"
#include "fbi/config/run_config.h"
#include "fbi/data/training_data.h"
#include "fbi/formats/checkpoint_reader.h"

namespace fbi::train {

/// What a run reads, by content: the same paths may hold other things one day, and the same things
/// may be moved.
struct Inputs {
  std::vector<data::FileContent> data;
  std::filesystem::path teacher;  ///< the folder of its weights, of a run a checkpoint; empty: none
  std::string teacher_hash;       ///< formats::content_hash of that
};

/// What the paths of `config` hold. Of a teacher's run it takes the checkpoint that `saved` has, as
/// long as it is there, else the newest valid one. Reads no data and no weights, but compares a
/// checkpoint that it chooses. Throws what opening them would.
Inputs read_inputs(const config::RunConfig& config, const std::optional<Inputs>& saved);

nlohmann::ordered_json to_json(const Inputs& inputs);
/// What a checkpoint's run has read; nullopt: written by a version that recorded nothing.
std::optional<Inputs> checkpoint_inputs(const formats::CheckpointReader& checkpoint);

/// Puts differences of content in the place of differences of paths.
void compare_inputs(const Inputs& saved, const Inputs& current,
                    std::vector<config::FieldDifference>& differences);

}  // namespace fbi::train
