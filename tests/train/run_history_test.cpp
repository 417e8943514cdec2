// What a run goes on from: longer runs, branches, its identity, and checkpoints that are damaged or
// lost.
#include "fbi/train/run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/formats/checkpoint_reader.h"
#include "fbi/train/dry_run.h"
#include "support/expect_error.h"
#include "support/flip_bit.h"
#include "train/run_fixture.h"

namespace fbi::train {
namespace {

namespace fs = std::filesystem;

void damage(const fs::path& checkpoint) {
  for (const auto& entry : fs::directory_iterator(checkpoint))
    if (entry.path().extension() == ".safetensors") test::flip_last_bit(entry.path());
}

double saved_learning_rate(const fs::path& checkpoint) {
  const std::string state = formats::CheckpointReader(checkpoint).manifest().state_json;
  return nlohmann::json::parse(state)["config"]["optimizer"]["lr"];
}

TEST_F(Run, IsLengthenedByMoreSteps) {
  config_.optimizer.total_steps = kSteps;
  config_.train.steps = 40;
  runs_.run(config_, "longer");
  config_.train.steps = kSteps;
  EXPECT_EQ(runs_.run(config_, "longer", "auto"), RunOutcome::kFinished);
  expect_whole("longer");
}

TEST_F(NewRun, OfAStableRateIsLengthenedOrEndedByAnotherDecay) {
  config_.optimizer.schedule = config::ScheduleKind::kWsd;
  config_.optimizer.decay_steps = 10;
  runs_.run(config_, "wsd");
  const auto train = [&](std::int64_t steps, const std::string& name, const std::string& from,
                         const std::vector<std::string>& allowed) {
    config_.train.steps = config_.optimizer.total_steps = steps;
    runs_.run(config_, name, from, {}, allowed);
  };
  const auto branch = [&](std::int64_t steps, const std::string& name, std::int64_t from) {
    const std::string checkpoint = checkpoint_of(runs_.path("wsd"), from).string();
    test::expect_error<UsageError>([&] { train(steps, name, checkpoint, {}); },
                                   "optimizer.total_steps: the run has 50",
                                   "--allow-change optimizer.total_steps moves its decay, without "
                                   "a leap of the rate up to the checkpoint of step 40");
    train(steps, name, checkpoint, {"optimizer.total_steps"});
  };
  for (const std::int64_t steps : {40, 60}) {
    const std::string name = std::to_string(steps);
    branch(steps, "branch" + name, steps - 20);
    train(steps, "alone" + name, "none", {});
    EXPECT_EQ(end_of(runs_.path("branch" + name), steps),
              end_of(runs_.path("alone" + name), steps));
  }
}

/// However the rate falls: the message of a refusal, and the warning of what is allowed.
TEST_F(Run, ThatHasEndedSaysThatTheRateLeapsWhenItsScheduleMoves) {
  const auto message = [&](const std::string& name, std::int64_t from) {
    std::string text = "no refusal";
    try {
      runs_.run(config_, "longer", checkpoint_of(runs_.path(name), from).string());
    } catch (const UsageError& error) {
      text = error.what();
    }
    return text;
  };
  using ::testing::HasSubstr;
  config_.train.steps = 70;
  EXPECT_THAT(message("whole", kSteps),
              HasSubstr("With this the learning rate leaps after step 50 from 0.0003"));
  config_.optimizer.schedule = config::ScheduleKind::kWsd;
  config_.optimizer.decay_steps = 10;
  config_.train.steps = kSteps;
  runs_.run(config_, "wsd");
  config_.train.steps = 70;
  const std::string leap =
      "With this the learning rate leaps after step 50 from 0.000435 to 0.003.";
  EXPECT_THAT(message("wsd", kSteps), HasSubstr(leap));
  EXPECT_THAT(message("wsd", 40), Not(HasSubstr("leaps")));
  runs_.run(config_, "wsd", "auto", {}, {"optimizer.total_steps"});
  EXPECT_THAT(read_file(runs_.path("wsd") / "train.log"), HasSubstr(leap));
}

TEST_F(NewRun, OfAConstantRateIsLengthenedWithoutMore) {
  config_.optimizer.schedule = config::ScheduleKind::kConstant;
  runs_.run(config_, "alone");
  config_.train.steps = 30;
  runs_.run(config_, "longer");
  config_.train.steps = kSteps;
  EXPECT_EQ(runs_.run(config_, "longer", "auto"), RunOutcome::kFinished);
  EXPECT_EQ(end_of(runs_.path("longer")), end_of(runs_.path("alone")));
}

TEST_F(Run, ContinuesInANewDirectoryFromAGivenCheckpoint) {
  const fs::path checkpoint = checkpoint_of(runs_.path("whole"), 30);
  EXPECT_EQ(runs_.run(config_, "branch", checkpoint.string()), RunOutcome::kFinished);
  EXPECT_EQ(metrics_lines(runs_.path("branch")),
            (std::vector<std::string>(metrics_.begin() + 30, metrics_.end())));
  EXPECT_EQ(end_of(runs_.path("branch")), end_);
}

TEST_F(Run, ThatBranchesOffMustHaveStepsToTake) {
  const std::string checkpoint = checkpoint_of(runs_.path("whole"), 30).string();
  config_.train.steps = config_.optimizer.total_steps = 30;
  config::RunConfig resolved = config_;
  config::resolve(resolved, 1);
  const RunOptions options{runs_.path("branch"), checkpoint, {"optimizer.total_steps"}, "test"};
  const std::string part =
      "train.steps=30 leaves nothing to train: the branch is to begin at step 30";
  test::expect_error<UsageError>([&] { dry_run(resolved, options, 1, estimate::Processor::kCpu); },
                                 part);
  test::expect_error<UsageError>(
      [&] { runs_.run(config_, "branch", checkpoint, {}, {"optimizer.total_steps"}); }, part);
  EXPECT_FALSE(fs::exists(runs_.path("branch") / "config.json"));
}

TEST_F(Run, ThatBranchesOffHasItsBeginning) {
  const std::string checkpoint = checkpoint_of(runs_.path("whole"), 30).string();
  const auto crash = [&](const std::string& resume) {
    EXPECT_THROW(runs_.run(config_, "branch", resume,
                           [](const StepMetrics&) { throw std::runtime_error("a crash"); }),
                 std::runtime_error);
  };
  crash(checkpoint);
  EXPECT_EQ(end_of(runs_.path("branch"), 30), end_of(runs_.path("whole"), 30));
  crash("auto");
  // As if the crash had come before.
  fs::remove_all(runs_.path("branch") / "checkpoints");
  crash(checkpoint);
  fs::remove_all(runs_.path("branch") / "checkpoints");
  fs::rename(checkpoint, checkpoint + "-elsewhere");
  test::expect_error<CheckpointError>([&] { runs_.run(config_, "branch", "auto"); },
                                      "no checkpoint of its own", checkpoint, "branched-from.txt");
  fs::rename(checkpoint + "-elsewhere", checkpoint);
  EXPECT_EQ(runs_.run(config_, "branch", "auto"), RunOutcome::kFinished);
  EXPECT_EQ(end_of(runs_.path("branch")), end_);
}

TEST_F(Run, KeepsItsIdentity) {
  config_.optimizer.lr = 1e-3;
  config_.data.seed = 8;
  const auto resume = [&] { runs_.run(config_, "whole", "auto"); };
  test::expect_error<UsageError>(resume, "optimizer.lr: the run has 0.003, now 0.001",
                                 "data.seed: the run has 7, now 8", "--allow-change");
  EXPECT_EQ(saved_run_config(runs_.path("whole"))->optimizer.lr, 3e-3);
  config_.train.steps = kSteps + 1;
  config_.optimizer.total_steps = kSteps;
  EXPECT_EQ(runs_.run(config_, "whole", "auto", {}, {"optimizer.lr", "data.seed"}),
            RunOutcome::kFinished);
  EXPECT_EQ(saved_run_config(runs_.path("whole"))->optimizer.lr, 1e-3);
}

TEST_F(Run, KeepsItsIdentityBeforeItsFirstCheckpoint) {
  fs::remove_all(runs_.path("whole") / "checkpoints");
  config_.train.seed = 1;
  test::expect_error<UsageError>([&] { runs_.run(config_, "whole", "auto"); },
                                 "train.seed: the run has 11, now 1");
  config_.train.seed = 11;
  EXPECT_EQ(runs_.run(config_, "whole", "auto"), RunOutcome::kFinished);
  expect_whole("whole");
}

TEST_F(Run, FallsBackFromADamagedCheckpoint) {
  damage(checkpoint_of(runs_.path("whole"), 50));
  damage(checkpoint_of(runs_.path("whole"), 40));
  std::int64_t steps = 0;
  EXPECT_EQ(runs_.run(config_, "whole", "auto", [&](const auto&) { ++steps; }),
            RunOutcome::kFinished);
  EXPECT_EQ(steps, 20);
  expect_whole("whole");
}

/// One that can be read again later belongs to a history that ended.
TEST_F(Run, ThatFellBackDoesNotReturnToWhatItPassedOver) {
  const fs::path passed = checkpoint_of(runs_.path("whole"), 50), hidden = runs_.path("manifest");
  fs::rename(passed / "manifest.json", hidden);
  config_.optimizer.lr = 1e-3;
  config_.train.steps = kSteps + 5;
  config_.optimizer.total_steps = kSteps;
  runs_.run(config_, "whole", "auto",
            [&](const StepMetrics& metrics) {
              if (metrics.step == 41) fs::create_directories(passed);  // as if it had come back
            },
            {"optimizer.lr"});
  EXPECT_EQ(metrics_lines(runs_.path("whole")).size(), kSteps + 5u);
  EXPECT_EQ(saved_learning_rate(passed), 1e-3);
  EXPECT_TRUE(fs::exists(runs_.path("whole") / "checkpoints" / "passed-over-1-step-00000050"));
}

TEST_F(Run, ThatHasLostItsCheckpointsKeepsItsMetrics) {
  fs::remove_all(runs_.path("whole") / "checkpoints");
  EXPECT_EQ(runs_.run(config_, "whole", "auto"), RunOutcome::kFinished);
  expect_whole("whole");
  const fs::path aside = runs_.path("whole") / "metrics-before-restart-1.jsonl";
  EXPECT_TRUE(fs::exists(aside));
  fs::rename(aside, runs_.path("whole") / "metrics.jsonl");
  EXPECT_EQ(metrics_lines(runs_.path("whole")), metrics_);
  // Saved by time, or never on its way.
  for (const double seconds : {0.0, 3600.0}) {
    fs::remove_all(runs_.path("whole") / "checkpoints");
    config_.checkpoint.every_steps = 0;
    config_.checkpoint.every_seconds = seconds;
    runs_.run(config_, "whole", "auto");
    EXPECT_TRUE(fs::remove(aside)) << seconds;
  }
}

TEST_F(Run, ThatIsFinishedNeedsNoPaths) {
  config_.data.paths = {"moved"};
  EXPECT_EQ(runs_.run(config_, "whole", "auto"), RunOutcome::kFinished);
}

TEST_F(Run, WithDamagedCheckpointsOnlyIsRefused) {
  for (const auto& folder : formats::list_checkpoints(runs_.path("whole") / "checkpoints"))
    damage(folder);
  test::expect_error<CheckpointError>([&] { runs_.run(config_, "whole", "auto"); },
                                      runs_.path("whole").string());
}

/// Of what is left of the run alone.
TEST_F(Run, ThatIsContinuedIsPlannedFromItsCheckpoint) {
  const auto plan = [&](std::int64_t first_step) {
    config_.optimizer.total_steps = kSteps;
    config_.train.steps = 10'000'000;
    config::RunConfig resolved = config_;
    config::resolve(resolved, 1);
    const std::string resume = first_step == 0 ? "none" : "auto";
    const RunOptions options{runs_.path(first_step == 0 ? "new" : "whole"), resume, {}, "test"};
    return dry_run(resolved, options, 1, estimate::Processor::kCpu);
  };
  using ::testing::HasSubstr;
  EXPECT_THAT(plan(0), HasSubstr(" for all steps, if "));
  EXPECT_THAT(plan(kSteps), HasSubstr(" for the 9999950 steps after step 50, if "));
  copy_as_step(checkpoint_of(runs_.path("whole"), kSteps), 9'999'900);
  EXPECT_THAT(plan(9'999'900), Not(HasSubstr("\ntime "))) << "hardly anything is left";
}

TEST_F(Run, IsContinuedWithTheConfigurationOfItsCheckpoint) {
  const std::string checkpoint = checkpoint_of(runs_.path("whole"), 30).string();
  const fs::path fresh = runs_.path("fresh");
  EXPECT_EQ(continued_run_config(fresh, checkpoint)->optimizer.schedule_micro_steps, 2);
  EXPECT_FALSE(continued_run_config(fresh, "auto"));
  EXPECT_TRUE(continued_run_config(runs_.path("whole"), "auto"));
  EXPECT_FALSE(continued_run_config(runs_.path("whole"), "none"));
}

TEST_F(Run, WithADamagedConfigurationNamesItsCheckpoints) {
  std::ofstream(runs_.path("whole") / "config.json") << "{";
  test::expect_error<UsageError>([&] { saved_run_config(runs_.path("whole")); }, "can't be used",
                                 "--run-dir NEW --resume", "step-00000050");
}

}  // namespace
}  // namespace fbi::train
