#include "fbi/train/run.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "distributed/ranks.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/log.h"
#include "fbi/core/signals.h"
#include "fbi/formats/checkpoint_reader.h"
#include "support/expect_error.h"
#include "train/run_fixture.h"

namespace fbi::train {
namespace {

namespace fs = std::filesystem;

/// No file grows beyond `bytes` until the object goes: what a full disk is to a writer.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    install_stop_handlers();  // as main does: SIGXFSZ is an error of write, not the end
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limited{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limited);
  }
  ~FileSizeLimit() { setrlimit(RLIMIT_FSIZE, &before_); }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_;
};

// Lines of metrics pass the first limit after two steps, a checkpoint passes the second.
constexpr rlim_t kNothingFits = 512, kMetricsFit = 60'000;

TEST_F(Run, SavesOnAStopRequestAndContinues) {
  install_stop_handlers();
  const auto outcome = runs_.run(config_, "stopped", "none", [](const StepMetrics& metrics) {
    if (metrics.step == 23) raise(SIGTERM);
  });
  EXPECT_EQ(stop_requested(), SIGTERM);
  clear_stop_request();
  EXPECT_EQ(outcome, RunOutcome::kStopped);
  EXPECT_EQ(metrics_lines(runs_.path("stopped")).size(), 23u);
  ASSERT_TRUE(fs::exists(checkpoint_of(runs_.path("stopped"), 23)));
  EXPECT_EQ(runs_.run(config_, "stopped", "auto"), RunOutcome::kFinished);
  expect_whole("stopped");
}

TEST_F(Run, StoppedInItsLastStepIsFinished) {
  install_stop_handlers();
  const auto outcome = runs_.run(config_, "stopped", "none", [](const StepMetrics& metrics) {
    if (metrics.step == kSteps) raise(SIGTERM);
  });
  clear_stop_request();
  EXPECT_EQ(outcome, RunOutcome::kFinished);
  expect_whole("stopped");
}

TEST_F(Run, ThatIsFinishedIsNotTrainedAgain) {
  const auto no_step = [](const StepMetrics&) { ADD_FAILURE() << "a step was run"; };
  EXPECT_EQ(runs_.run(config_, "whole", "auto", no_step), RunOutcome::kFinished);
  expect_whole("whole");
}

TEST_F(Run, KeepsEveryNthCheckpointForGood) {
  const auto saved = [&](const std::string& name) {
    std::vector<std::string> names;
    for (const auto& path : formats::list_checkpoints(runs_.path(name) / "checkpoints"))
      names.push_back(path.filename().string());
    std::ranges::sort(names);
    return names;
  };
  config_.checkpoint.keep = 2;
  config_.checkpoint.keep_every = 20;
  runs_.run(config_, "kept");
  EXPECT_EQ(saved("kept"), (std::vector<std::string>{"step-00000020", "step-00000030",
                                                     "step-00000040", "step-00000050"}));
  expect_whole("kept");
  config_.checkpoint.keep_every = 17;  // due at these, too
  runs_.run(config_, "uneven");
  EXPECT_EQ(saved("uneven"), (std::vector<std::string>{"step-00000017", "step-00000034",
                                                       "step-00000040", "step-00000050"}));
  expect_whole("uneven");
}

TEST_F(Run, SavesAfterEveryStepThatLastsTooLong) {
  constexpr std::int64_t kLast = 20;
  config_.optimizer.total_steps = kSteps;
  config_.train.steps = kLast;
  config_.checkpoint.every_steps = 0;
  config_.checkpoint.every_seconds = 1e-9;
  runs_.run(config_, "timed");
  for (std::int64_t step = 1; step <= kLast; ++step)
    EXPECT_TRUE(fs::exists(checkpoint_of(runs_.path("timed"), step))) << step;
  for (const std::int64_t step : {10, 20})
    EXPECT_EQ(end_of(runs_.path("timed"), step), end_of(runs_.path("whole"), step));
  config_.checkpoint.every_seconds = 3600;
  runs_.run(config_, "slow");
  const auto saved = formats::list_checkpoints(runs_.path("slow") / "checkpoints");
  ASSERT_EQ(saved.size(), 1u);
  EXPECT_EQ(saved.front(), checkpoint_of(runs_.path("slow"), kLast));
}

/// Their clocks differ.
TEST_F(NewRun, OnRanksSavesWhenTheTimeOfOneIsUp) {
  constexpr std::int64_t kLast = 6;
  config_.optimizer.total_steps = config_.train.steps = kLast;
  config_.checkpoint.every_steps = 0;
  test::run_ranks_ok(2, [&](distributed::Communicator& ranks) {
    config::RunConfig config = config_;
    config.checkpoint.every_seconds = ranks.rank() == 1 ? 1e-9 : 3600;
    runs_.run_rank(ranks, config, "timed", "none");
  });
  for (std::int64_t step = 1; step <= kLast; ++step)
    EXPECT_TRUE(fs::exists(checkpoint_of(runs_.path("timed"), step))) << step;
}

TEST_F(Run, GoesOnWhileTheDiskIsFull) {
  for (const rlim_t bytes : {kNothingFits, kMetricsFit}) {
    const std::string name = "limited" + std::to_string(bytes);
    std::optional<FileSizeLimit> limit;
    runs_.run(config_, name, "none", [&](const StepMetrics& metrics) {
      if (metrics.step == 15) limit.emplace(bytes);
      if (metrics.step == 35) {
        EXPECT_FALSE(fs::exists(checkpoint_of(runs_.path(name), 20)));
        EXPECT_FALSE(fs::exists(checkpoint_of(runs_.path(name), 30)));
        EXPECT_EQ(checkpoint_fingerprint(checkpoint_of(runs_.path(name), 10)),
                  checkpoint_fingerprint(checkpoint_of(runs_.path("whole"), 10)));
        limit.reset();
      }
    });
    EXPECT_TRUE(fs::exists(checkpoint_of(runs_.path(name), 40)));
    expect_whole(name);
  }
}

TEST_F(Run, EndsWithADiskErrorWhenItsLastSaveFails) {
  {
    std::optional<FileSizeLimit> limit;
    const auto train = [&] {
      runs_.run(config_, "limited", "none", [&](const StepMetrics& metrics) {
        if (metrics.step == 45) limit.emplace(kMetricsFit);
      });
    };
    test::expect_error<DiskError>(train, runs_.path("limited").string());
  }
  EXPECT_EQ(runs_.run(config_, "limited", "auto"), RunOutcome::kFinished);
  expect_whole("limited");
}

TEST_F(Run, StartsFromGivenWeights) {
  config_.train.init_from = runs_.path("whole").string();
  config_.train.steps = 1;
  config_.optimizer.warmup_steps = 0;
  config_.optimizer.lr = 1e-30;  // far below half a unit in the last place of any weight
  config_.optimizer.end_lr = 0;
  runs_.run(config_, "tuned");
  const auto tuned = checkpoint_fingerprint(checkpoint_of(runs_.path("tuned"), 1));
  for (const auto& [name, hash] : end_)
    if (name.starts_with("model.") || name.starts_with("lm_head."))
      EXPECT_EQ(tuned.at(name), hash) << name;
}

TEST_F(Run, SaysWhenGivenWeightsWereTrainedWithOtherArithmetic) {
  config_.train.init_from = runs_.path("whole").string();
  config_.train.steps = 1;
  config_.optimizer.warmup_steps = 0;
  const auto warnings = [&](const std::string& name) {
    testing::internal::CaptureStderr();
    log::add_terminal(log::Level::kWarn);
    runs_.run(config_, name);
    log::reset();
    return testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(warnings("same"), "");
  config_.model.rope_theta = 500000;
  const std::string text = warnings("other");
  EXPECT_NE(text.find("was trained with model.rope_theta=10000.0, this run has 500000.0"),
            std::string::npos)
      << text;
}

TEST_F(NewRun, EndsAfterTooManyNonFiniteStepsInARow) {
  config_.optimizer.lr = 1e30;
  config_.optimizer.warmup_steps = 0;
  config_.train.max_skipped_in_row = 3;
  config_.checkpoint.every_steps = 1;
  test::expect_error<DivergedError>(
      [&] { runs_.run(config_, "diverged"); }, "3 steps in a row had a non-finite loss",
      "newest checkpoint from before them: " + runs_.path("diverged").string());
  const auto lines = metrics_lines(runs_.path("diverged"));
  ASSERT_GE(lines.size(), 4u);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const bool is_skipped = lines[i].find("\"skipped\":true") != std::string::npos;
    EXPECT_EQ(is_skipped, i + 3 >= lines.size()) << lines[i];
  }
  const auto saved = formats::list_checkpoints(runs_.path("diverged") / "checkpoints");
  EXPECT_EQ(saved.front(), checkpoint_of(runs_.path("diverged"), std::ssize(lines) - 3))
      << "nothing is saved while steps fail";
}

/// The name has a digit more than those before.
TEST_F(Run, ThatDivergesFindsTheNewestCheckpointByItsStep) {
  constexpr std::int64_t kLast = 99'999'999;
  fs::create_directories(runs_.path("long") / "checkpoints");
  fs::copy_file(runs_.path("whole") / "config.json", runs_.path("long") / "config.json");
  copy_as_step(checkpoint_of(runs_.path("whole"), kSteps), kLast);
  fs::rename(checkpoint_of(runs_.path("whole"), kLast), checkpoint_of(runs_.path("long"), kLast));
  config_.optimizer.total_steps = kSteps;
  config_.optimizer.lr = config_.optimizer.end_lr = 1e30;
  config_.train.steps = kLast + kSteps;
  config_.train.max_skipped_in_row = 3;
  config_.checkpoint.every_steps = 0;
  test::expect_error<DivergedError>(
      [&] {
        runs_.run(config_, "long", "auto", {}, {"optimizer.lr", "optimizer.end_lr"});
      },
      "from before them: " + checkpoint_of(runs_.path("long"), kLast).string() + ". Look");
}

TEST_F(NewRun, ThatDivergesSaysSoWhateverItsFolderIs) {
  config_.optimizer.lr = 1e30;
  config_.optimizer.warmup_steps = 0;
  config_.train.max_skipped_in_row = 3;
  config_.checkpoint.every_steps = 0;
  const auto on_step = [&](const StepMetrics& metrics) {
    if (metrics.step == 1) std::ofstream(runs_.path("diverged") / "checkpoints") << "no folder";
  };
  test::expect_error<DivergedError>([&] { runs_.run(config_, "diverged", "none", on_step); },
                                    "3 steps in a row had a non-finite loss",
                                    "from before them: unknown (cannot list checkpoints in ");
}

TEST_F(Run, StoppedWhileStepsFailKeepsWhatWasSavedBefore) {
  fs::remove_all(checkpoint_of(runs_.path("whole"), 50));
  fs::remove_all(checkpoint_of(runs_.path("whole"), 40));
  config_.optimizer.lr = 1e30;
  config_.train.max_skipped_in_row = kSteps;
  config_.checkpoint.keep = 2;
  config_.checkpoint.keep_every = 20;
  install_stop_handlers();
  bool failed = false;
  const auto on_step = [&](const StepMetrics& metrics) {
    failed = metrics.skipped;
    if (metrics.step == 45) raise(SIGTERM);
  };
  runs_.run(config_, "whole", "auto", on_step, {"optimizer.lr"});
  clear_stop_request();
  ASSERT_TRUE(failed);
  EXPECT_FALSE(fs::exists(checkpoint_of(runs_.path("whole"), 40))) << "saved while steps fail";
  for (const std::int64_t step : {10, 20, 30, 45})
    EXPECT_TRUE(fs::exists(checkpoint_of(runs_.path("whole"), step))) << step;
}

TEST_F(Run, GoesOnWhenItsLockCannotBeRefreshed) {
  runs_.run(config_, "unlocked", "none", [&](const StepMetrics& metrics) {
    if (metrics.step != 15) return;
    fs::remove_all(runs_.path("unlocked") / ".lock");
    std::ofstream(runs_.path("unlocked") / ".lock") << "no folder";
  });
  expect_whole("unlocked");
}

TEST_F(NewRun, EvaluationSettingsAreCheckedBeforeTheFirstStep) {
  std::ofstream(runs_.path("long.jsonl"))
      << nlohmann::json(std::vector<int>(kSeqLen + 2, 3)).dump() << "\n";
  config_.evaluation.every_steps = 10;
  config_.evaluation.tokens = {runs_.path("long.jsonl").string()};
  const auto no_step = [](const StepMetrics&) { ADD_FAILURE() << "a step was run"; };
  test::expect_error<UsageError>([&] { runs_.run(config_, "checked", "none", no_step); },
                                 "long.jsonl", "windows of 10 tokens need 9 positions");
}

TEST_F(NewRun, EvaluationOfWeightsThatAreNotFiniteIsNoError) {
  config_.optimizer.groups.norm.lr = 1e40;
  config_.optimizer.warmup_steps = 0;
  config_.evaluation.every_steps = 1;
  config_.evaluation.tokens = config_.data.paths;
  config_.train.max_skipped_in_row = 3;
  EXPECT_THROW(runs_.run(config_, "diverged"), DivergedError);
  EXPECT_NE(metrics_lines(runs_.path("diverged")).back().find("\"perplexity\":null"),
            std::string::npos)
      << metrics_lines(runs_.path("diverged")).back();
}

TEST_F(Run, GoesOnWhenItCannotBeEvaluated) {
  const fs::path held_out = runs_.path("held-out.jsonl");
  const std::string line = nlohmann::json(std::vector<int>(kSeqLen + 1, 3)).dump() + "\n";
  std::ofstream(held_out) << line;
  config_.evaluation.every_steps = 10;
  config_.evaluation.tokens = {held_out.string()};
  runs_.run(config_, "evaluated", "none", [&](const StepMetrics& metrics) {
    EXPECT_EQ(metrics.evaluation.size(), metrics.step == 10 ? 1u : 0u) << metrics.step;
    if (metrics.step == 11)
      std::fstream(held_out, std::ios::in | std::ios::out) << std::string(line.size() - 1, 'x');
  });
  EXPECT_EQ(end_of(runs_.path("evaluated")), end_);
}

TEST_F(Run, OfAMeasurementLeavesNoCheckpoint) {
  config_.checkpoint.every_steps = 0;
  config_.checkpoint.at_end = false;
  EXPECT_EQ(runs_.run(config_, "measured"), RunOutcome::kFinished);
  EXPECT_EQ(metrics_lines(runs_.path("measured")), metrics_);
  EXPECT_TRUE(formats::list_checkpoints(runs_.path("measured") / "checkpoints").empty());
}

/// checkpoint.at_end is about one that is not due.
TEST_F(Run, SavesItsLastStepWhenThatIsDue) {
  config_.checkpoint.at_end = false;
  config_.checkpoint.every_steps = 0;
  config_.checkpoint.keep_every = 25;
  runs_.run(config_, "kept");
  EXPECT_EQ(end_of(runs_.path("kept")), end_);
  config_.checkpoint.keep_every = 0;
  config_.checkpoint.every_steps = 25;
  runs_.run(config_, "saved");
  EXPECT_EQ(end_of(runs_.path("saved")), end_);
  config_.checkpoint.every_steps = 20;
  runs_.run(config_, "not-due");
  EXPECT_FALSE(fs::exists(checkpoint_of(runs_.path("not-due"), kSteps)));
}

std::string text_of(const fs::path& file) {
  std::ifstream stream(file);
  return {std::istreambuf_iterator<char>(stream), {}};
}

TEST(Fp8Teacher, TrainsResumesAndTellsItsDrift) {
  TinyRuns runs;
  config::RunConfig config = runs.config("kd");
  config.teacher.dtype = "fp8";
  config.checkpoint.every_steps = 20;
  EXPECT_EQ(runs.run(config, "whole"), RunOutcome::kFinished);
  const std::string log = text_of(runs.path("whole") / "train.log");
  EXPECT_NE(log.find("fp8; against Float on the run's first micro-batch: KL divergence "),
            std::string::npos)
      << log;
  EXPECT_NE(log.find(" of 16"), std::string::npos) << log;
  copy_run_at(runs.path("whole"), runs.path("resumed"), 20);
  EXPECT_EQ(runs.run(config, "resumed", "auto"), RunOutcome::kFinished);
  EXPECT_EQ(metrics_lines(runs.path("resumed")), metrics_lines(runs.path("whole")));
  EXPECT_EQ(end_of(runs.path("resumed")), end_of(runs.path("whole")));
}

/// Its forward is that of fewer bits, and everything else what it is in the other forms.
TEST(Fp8Signs, TrainsAndResumes) {
  TinyRuns runs;
  config::RunConfig config = runs.config("mixed");
  config.train.sign_products = "fp8";
  config.checkpoint.every_steps = 20;
  std::vector<double> losses;
  EXPECT_EQ(runs.run(config, "whole", "none",
                     [&](const StepMetrics& step) { losses.push_back(step.loss); }),
            RunOutcome::kFinished);
  EXPECT_LT(losses.back(), losses.front());
  copy_run_at(runs.path("whole"), runs.path("resumed"), 20);
  config.train.recompute = true;  // changes memory alone
  config.train.working_copy = "step";
  EXPECT_EQ(runs.run(config, "resumed", "auto"), RunOutcome::kFinished);
  EXPECT_EQ(metrics_lines(runs.path("resumed")), metrics_lines(runs.path("whole")));
  EXPECT_EQ(end_of(runs.path("resumed")), end_of(runs.path("whole")));
  config.train.sign_products = "dense";
  test::expect_error<UsageError>([&] { runs.run(config, "resumed", "auto"); },
                                 "train.sign_products");
}

TEST(SavedRunConfig, IsAbsentInANewFolder) {
  test::TempDir folder;
  EXPECT_FALSE(saved_run_config(folder.path()));
}

}  // namespace
}  // namespace fbi::train
