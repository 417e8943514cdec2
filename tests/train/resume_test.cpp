#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <string>
#include <tuple>

#include "fbi/core/error.h"
#include "fbi/core/signals.h"
#include "support/expect_error.h"
#include "train/tiny_run.h"

namespace fbi::train {
namespace {

namespace fs = std::filesystem;

class Resume : public ::testing::TestWithParam<std::tuple<std::string, bool>> {};

/// Trains "whole", with a checkpoint of every step.
void run_whole(TinyRuns& runs, config::RunConfig config) {
  config.checkpoint.every_steps = 1;
  ASSERT_EQ(runs.run(config, "whole"), RunOutcome::kFinished);
  ASSERT_EQ(metrics_lines(runs.path("whole")).size(), kSteps);
}

/// Of a run that goes on from the checkpoint of `step` of "whole" and ends after `last`.
void expect_same_bits(TinyRuns& runs, config::RunConfig config, std::int64_t step,
                      std::int64_t last) {
  SCOPED_TRACE(testing::Message() << "steps " << step + 1 << " to " << last);
  config.checkpoint.every_steps = 0;
  const fs::path whole = runs.path("whole"), directory = runs.path("resumed");
  copy_run_at(whole, directory, step);
  install_stop_handlers();
  std::int64_t steps_run = 0;
  const auto outcome = runs.run(config, "resumed", "auto", [&](const StepMetrics& metrics) {
    ++steps_run;
    if (metrics.step == last && last < kSteps) std::raise(SIGTERM);
  });
  clear_stop_request();
  EXPECT_EQ(outcome, last < kSteps ? RunOutcome::kStopped : RunOutcome::kFinished);
  EXPECT_EQ(steps_run, last - step);
  auto metrics = metrics_lines(whole);
  metrics.resize(static_cast<std::size_t>(last));
  EXPECT_EQ(metrics_lines(directory), metrics);
  EXPECT_EQ(end_of(directory, last), end_of(whole, last));
  fs::remove_all(directory);
}

/// Of runs to the end, from every 16th step.
void expect_same_ends(TinyRuns& runs, const config::RunConfig& config) {
  for (std::int64_t step = 1; step < kSteps && !testing::Test::HasFailure(); step += 16)
    expect_same_bits(runs, config, step, kSteps);
}

TEST_P(Resume, FromAnyStepGivesTheSameBits) {
  TinyRuns runs;
  config::RunConfig config = runs.config(std::get<0>(GetParam()));
  config.train.recompute = std::get<1>(GetParam());
  // A copy is none of a checkpoint's signs.
  if (config.train.recompute) config.train.working_copy = "step";
  run_whole(runs, config);
  // A step from each checkpoint to the next one; and nothing that no checkpoint holds matters
  // later.
  for (std::int64_t step = 1; step < kSteps && !HasFailure(); ++step)
    expect_same_bits(runs, config, step, step + 1);
  expect_same_ends(runs, config);
}

TEST(ResumeTiedScales, GivesTheSameBits) {
  TinyRuns runs;
  run_whole(runs, runs.config("tied"));
  expect_same_ends(runs, runs.config("tied"));
}

/// Of 4 samples a step, whose corpora take turns in a period of 7.
TEST(ResumeMixedCorpora, GivesTheSameBits) {
  TinyRuns runs;
  config::RunConfig config = runs.config();
  config.data.paths.push_back(config.data.paths.front());
  config.data.weights = {5, 2};
  run_whole(runs, config);
  expect_same_ends(runs, config);
}

TEST(ResumeTiedScales, FromDifferentScalesIsRefused) {
  TinyRuns runs;
  config::RunConfig config = runs.config("mixed");
  config.checkpoint.every_steps = 2;
  config.train.steps = 6;
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

/// Of runs that differ in memory and time alone.
class SameBits : public ::testing::TestWithParam<std::string> {
 protected:
  config::RunConfig config() { return runs_.config(GetParam()); }
  void expect_of_both(const config::RunConfig& one, const config::RunConfig& other) {
    runs_.run(one, "one");
    runs_.run(other, "other");
    EXPECT_EQ(metrics_lines(runs_.path("other")), metrics_lines(runs_.path("one")));
    EXPECT_EQ(end_of(runs_.path("other")), end_of(runs_.path("one")));
  }
  TinyRuns runs_;
};

TEST_P(SameBits, WithRecompute) {
  config::RunConfig one = config(), other = one;
  other.train.recompute = true;
  expect_of_both(one, other);
}

/// The signs of a step with a non-finite loss stay, and so may the copy.
TEST_P(SameBits, WithAWorkingCopyForTheWholeStep) {
  config::RunConfig one = config();
  one.train.sign_products = "dense";
  one.train.working_copy = "layer";
  config::RunConfig other = one;
  other.train.working_copy = "step";
  other.train.recompute = true;
  expect_of_both(one, other);
  for (config::RunConfig* run : {&one, &other}) run->train.precision = config::Precision::kBf16;
  runs_.run(one, "bf16");
  runs_.run(other, "bf16-step");
  EXPECT_EQ(metrics_lines(runs_.path("bf16-step")), metrics_lines(runs_.path("bf16")));
}

INSTANTIATE_TEST_SUITE_P(Kinds, SameBits, ::testing::Values("kd", "mixed", "tied", "dense"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace fbi::train
