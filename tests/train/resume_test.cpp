#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <tuple>

#include "fbi/core/error.h"
#include "support/expect_error.h"
#include "train/tiny_run.h"

namespace fbi::train {
namespace {

namespace fs = std::filesystem;

class Resume : public ::testing::TestWithParam<std::tuple<std::string, bool>> {};

/// Stops after every `stride`th step.
void expect_same_bits(const std::string& kind, bool recompute, std::int64_t stride) {
  TinyRuns runs;
  config::RunConfig config = runs.config(kind);
  config.train.recompute = recompute;
  config.checkpoint.every_steps = 1;
  ASSERT_EQ(runs.run(config, "whole"), RunOutcome::kFinished);
  const auto metrics = metrics_lines(runs.path("whole"));
  const Fingerprint end = end_of(runs.path("whole"));
  ASSERT_EQ(metrics.size(), kSteps);
  config.checkpoint.every_steps = 0;
  for (std::int64_t step = 1; step < kSteps; step += stride) {
    const fs::path directory = runs.path("resumed");
    copy_run_at(runs.path("whole"), directory, step);
    std::int64_t steps_run = 0;
    ASSERT_EQ(runs.run(config, "resumed", "auto", [&](const auto&) { ++steps_run; }),
              RunOutcome::kFinished);
    EXPECT_EQ(steps_run, kSteps - step);
    ASSERT_EQ(metrics_lines(directory), metrics) << "stopped at step " << step;
    ASSERT_EQ(end_of(directory), end) << "stopped at step " << step;
    fs::remove_all(directory);
  }
}

TEST_P(Resume, FromAnyStepGivesTheSameBits) {
  expect_same_bits(std::get<0>(GetParam()), std::get<1>(GetParam()), 1);
}

TEST(ResumeTiedScales, GivesTheSameBits) {
  expect_same_bits("tied", false, 16);
}

TEST(ResumeTiedScales, FromDifferentScalesIsRefused) {
  TinyRuns runs;
  config::RunConfig config = runs.config("mixed");
  config.checkpoint.every_steps = 2;
  runs.run(config, "untied");
  copy_run_at(runs.path("untied"), runs.path("tied"), 2);
  config.model.tie_scales = true;
  test::expect_error<CheckpointError>(
      [&] { runs.run(config, "tied", "auto", {}, {"model.tie_scales"}); }, "k_proj.wscale differs",
      "model.tie_scales is true");
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, Resume, ::testing::Combine(::testing::Values("kd", "mixed", "dense"), ::testing::Bool()),
    [](const auto& info) {
      return std::get<0>(info.param) + (std::get<1>(info.param) ? "Recompute" : "");
    });

class Recompute : public ::testing::TestWithParam<std::string> {};

TEST_P(Recompute, ChangesNoBit) {
  TinyRuns runs;
  config::RunConfig config = runs.config(GetParam());
  runs.run(config, "kept");
  config.train.recompute = true;
  runs.run(config, "recomputed");
  EXPECT_EQ(metrics_lines(runs.path("recomputed")), metrics_lines(runs.path("kept")));
  EXPECT_EQ(end_of(runs.path("recomputed")), end_of(runs.path("kept")));
}

INSTANTIATE_TEST_SUITE_P(Kinds, Recompute, ::testing::Values("kd", "mixed", "dense"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace fbi::train
