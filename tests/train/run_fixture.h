#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fbi/core/file.h"
#include "fbi/formats/checkpoint_reader.h"
#include "train/tiny_run.h"

namespace fbi::train {

/// Runs that save at steps 10, 20, 30 and 40, unless a test says otherwise.
class NewRun : public ::testing::Test {
 protected:
  NewRun() { config_.checkpoint.every_steps = 10; }

  TinyRuns runs_;
  config::RunConfig config_ = runs_.config();
};

/// Beside one of them that has ended, "whole", and what a run must end with.
class Run : public NewRun {
 protected:
  Run() {
    runs_.run(config_, "whole");
    metrics_ = metrics_lines(runs_.path("whole"));
    end_ = end_of(runs_.path("whole"));
  }

  void expect_whole(const std::string& name) {
    EXPECT_EQ(metrics_lines(runs_.path(name)), metrics_);
    EXPECT_EQ(end_of(runs_.path(name)), end_);
  }

  std::vector<std::string> metrics_;
  Fingerprint end_;
};

/// As if it were of another step, beside it.
inline void copy_as_step(const std::filesystem::path& checkpoint, std::int64_t step) {
  const std::filesystem::path copy =
      checkpoint.parent_path() / formats::checkpoint_folder_name(step);
  std::filesystem::copy(checkpoint, copy);
  auto manifest = formats::manifest_from_file(copy / "manifest.json");
  auto state = nlohmann::json::parse(manifest.state_json);
  state["train"]["step"] = manifest.step = step;
  manifest.state_json = state.dump();
  write_file(copy / "manifest.json", formats::manifest_to_json(manifest));
}

}  // namespace fbi::train
