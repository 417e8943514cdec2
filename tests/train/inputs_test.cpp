// A run goes on with the data and the teacher that it began with, wherever they lie.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/train/dry_run.h"
#include "nn/write_model_folder.h"
#include "support/expect_error.h"
#include "train/data_use.h"
#include "train/tiny_run.h"

namespace fbi::train {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kHalf = kSteps / 2;

void write_shard(const fs::path& path, int first_id) {
  formats::TokenShardWriter writer(path, {kVocab, kSeqLen + 1, 0, ""});
  for (int sample = 0; sample < 37; ++sample)
    writer.add(std::vector<std::int32_t>(kSeqLen + 1, (first_id + sample) % kVocab));
  writer.finish();
}

void write_lines(const fs::path& path, int last_id) {
  std::ofstream file(path);
  for (int line = 0; line < 20; ++line) {
    std::vector<int> ids(kSeqLen + 1, line);
    if (line == 19) ids.back() = last_id;
    file << nlohmann::json{{"token_ids", ids}}.dump() << "\n";
  }
}

std::string log_of(const fs::path& run) {
  return read_file(run / "train.log");
}

class RunInputs : public ::testing::Test {
 protected:
  RunInputs() {
    config_.optimizer.total_steps = kSteps;
    config_.checkpoint.every_steps = kHalf;
  }

  void distil() {
    config_ = runs_.config("kd");
    config_.optimizer.total_steps = kSteps;
  }
  /// To the middle, as "run".
  void begin() {
    config_.train.steps = kHalf;
    runs_.run(config_, "run");
    config_.train.steps = kSteps;
  }
  void go_on(const std::vector<std::string>& allowed = {}) {
    EXPECT_EQ(runs_.run(config_, "run", "auto", {}, allowed), RunOutcome::kFinished);
  }
  /// By the start and by its dry run.
  template <class... Parts>
  void expect_refused(const Parts&... parts) {
    test::expect_error<UsageError>([&] { runs_.run(config_, "run", "auto"); }, parts...);
    config::RunConfig resolved = config_;
    config::resolve(resolved, 1);
    const RunOptions options{runs_.path("run"), "auto", {}, "test"};
    test::expect_error<UsageError>(
        [&] { dry_run(resolved, options, 1, estimate::Processor::kCpu); }, parts...);
  }
  void expect_of_whole_run() {
    EXPECT_EQ(metrics_lines(runs_.path("run")), metrics_lines(runs_.path("whole")));
    EXPECT_EQ(end_of(runs_.path("run")), end_of(runs_.path("whole")));
  }
  void train_teacher_to(std::int64_t steps) {
    config::RunConfig c = *saved_run_config(runs_.teacher());
    c.train.steps = steps;
    runs_.run(c, "teacher", "auto");
  }
  fs::path teacher_at(std::int64_t step) { return checkpoint_of(runs_.path("teacher"), step); }

  TinyRuns runs_;
  config::RunConfig config_ = runs_.config();
};

TEST_F(RunInputs, OtherDataUnderTheSameNameAreRefused) {
  begin();
  write_shard(runs_.path("tiny.tokens"), 3);
  expect_refused("data.paths: the run has file 0, tiny.tokens of 794 bytes, XXH3 ",
                 ", now file 0, tiny.tokens of 794 bytes, XXH3 ",
                 "--allow-change data.paths goes on with what is there now");
  go_on({"data.paths"});
  EXPECT_NE(log_of(runs_.path("run")).find("data.paths: file 0, "), std::string::npos);
}

TEST_F(RunInputs, AChangeThatWasAllowedIsTheRunsOwnFromThenOn) {
  begin();
  write_shard(runs_.path("tiny.tokens"), 3);
  config_.train.steps = kSteps - 1;
  go_on({"data.paths"});
  config_.train.steps = kSteps;
  go_on();
}

TEST_F(RunInputs, MovedDataAreTheSame) {
  runs_.run(config_, "whole");
  begin();
  fs::create_directory(runs_.path("moved"));
  fs::rename(runs_.path("tiny.tokens"), runs_.path("moved") / "renamed.tokens");
  config_.data.paths = {runs_.path("moved").string()};
  go_on();
  expect_of_whole_run();
  EXPECT_NE(log_of(runs_.path("run")).find("data.paths has changed, but what is there is the same"),
            std::string::npos);
}

TEST_F(RunInputs, OneFileMoreIsRefusedAndASkippedOneIsNone) {
  begin();
  write_shard(runs_.path("more.tokens"), 3);
  config_.data.paths.push_back(runs_.path("more.tokens").string());
  expect_refused("data.paths: the run has 1 file(s), now file 1, more.tokens of 794 bytes");
  config_.data.skip_files = {1};
  go_on({"data.skip_files"});
}

TEST_F(RunInputs, AFileThatMovesInTheListIsRefused) {
  begin();
  write_shard(runs_.path("before.tokens"), 3);
  config_.data.paths.insert(config_.data.paths.begin(), runs_.path("before.tokens").string());
  config_.data.skip_files = {0};  // the same file is read, in another order
  expect_refused("data.paths: the run has [", "data.skip_files: the run has []");
}

TEST_F(RunInputs, MixedDataBelongToTheirCorpora) {
  fs::create_directories(runs_.path("a"));
  fs::create_directories(runs_.path("b"));
  for (const char* name : {"a/0.tokens", "a/1.tokens", "b/2.tokens"})
    write_shard(runs_.path(name), name[2]);
  config_.data.paths = {runs_.path("a").string(), runs_.path("b").string()};
  config_.data.weights = {1, 2};
  begin();
  fs::rename(runs_.path("a/1.tokens"), runs_.path("b/1.tokens"));
  expect_refused("data.paths: the run has file 1, 1.tokens of ", ", in data.paths[1]");
  fs::rename(runs_.path("b/1.tokens"), runs_.path("a/1.tokens"));
  go_on();
}

TEST_F(RunInputs, JsonLinesAreToldApartByTheirEnds) {
  write_lines(runs_.path("lines.jsonl"), 7);
  config_.data.format = config::DataFormat::kAmber;
  config_.data.paths = {runs_.path("lines.jsonl").string()};
  begin();
  const auto data = data::open_training_data(config_.data, config_.train, config_.model.vocab_size);
  EXPECT_THAT(data_use(config_, *data).front().text, ::testing::EndsWith("in 1 file(s)"));
  write_lines(runs_.path("lines.jsonl"), 8);
  expect_refused("data.paths: the run has file 0, lines.jsonl of ");
  write_lines(runs_.path("lines.jsonl"), 7);
  go_on();
}

TEST_F(RunInputs, ThatAreHardlyReadAreNotSaidToBeReadNever) {
  formats::TokenShardWriter writer(runs_.path("large.tokens"), {kVocab, kSeqLen + 1, 0, ""});
  for (int sample = 0; sample < 500; ++sample)
    writer.add(std::vector<std::int32_t>(kSeqLen + 1, 3));
  writer.finish();
  config_.data.paths = {runs_.path("large.tokens").string()};
  const auto use = [&](std::int64_t steps) {
    config_.train.steps = steps;
    config::resolve(config_, 1);
    const auto data =
        data::open_training_data(config_.data, config_.train, config_.model.vocab_size);
    return data_use(config_, *data).front().text;
  };
  EXPECT_THAT(use(1), ::testing::EndsWith("; the run reads them less than 0.01 times"));
  EXPECT_THAT(use(2), ::testing::EndsWith("; the run reads them 0.02 times"));
}

TEST_F(RunInputs, AreToldWithOtherDifferences) {
  begin();
  write_shard(runs_.path("tiny.tokens"), 3);
  config_.optimizer.lr = 1e-3;
  expect_refused("optimizer.lr: the run has 0.003, now 0.001", "data.paths: the run has file 0");
}

TEST_F(RunInputs, ATeacherThatIsTrainedOnStaysTheOneOfTheBeginning) {
  distil();
  runs_.run(config_, "whole");
  begin();
  train_teacher_to(6);
  ASSERT_TRUE(fs::exists(teacher_at(6)));
  go_on();
  expect_of_whole_run();
  EXPECT_NE(log_of(runs_.path("run")).find("the newest is step-00000006"), std::string::npos);
}

TEST_F(RunInputs, ATeachersCheckpointThatIsGoneIsMissed) {
  distil();
  begin();
  train_teacher_to(6);
  fs::remove_all(teacher_at(3));
  expect_refused("teacher.path: the run has " + teacher_at(3).string() + " (which is gone), XXH3 ",
                 ", now " + teacher_at(6).string() + ", XXH3 ",
                 "--allow-change teacher.path goes on with what is there now");
  go_on({"teacher.path"});
  EXPECT_NE(log_of(runs_.path("run")).find("  teacher.path: "), std::string::npos);
}

TEST_F(RunInputs, AMovedTeacherIsTheSameAndMayBeNamedByItsCheckpoint) {
  distil();
  runs_.run(config_, "whole");
  begin();
  train_teacher_to(6);
  fs::rename(runs_.path("teacher"), runs_.path("moved"));
  config_.teacher.path = runs_.path("moved").string();
  config_.train.steps = kSteps - 1;
  go_on();
  config_.teacher.path = checkpoint_of(runs_.path("moved"), 6).string();
  config_.train.steps = kSteps;
  expect_refused("teacher.path: the run has " + checkpoint_of(runs_.path("moved"), 3).string());
  config_.teacher.path = checkpoint_of(runs_.path("moved"), 3).string();
  go_on();
  expect_of_whole_run();
}

TEST_F(RunInputs, AnotherModelInTheTeachersFolderIsRefused) {
  config::ModelConfig model = runs_.config("dense").model;
  config::resolve(model);
  const fs::path folder = runs_.path("published");
  nn::write_model_folder(folder, model, nn::random_model(model, 1));
  config_.objective = {0, 1, 1};
  config_.teacher.path = folder.string();
  begin();
  nn::write_model_folder(folder, model, nn::random_model(model, 2));
  expect_refused("teacher.path: the run has " + folder.string() + ", XXH3 ",
                 ", now " + folder.string() + ", XXH3 ");
  nn::write_model_folder(folder, model, nn::random_model(model, 1));
  go_on();
}

/// As versions before wrote it.
void forget_inputs(const fs::path& checkpoint) {
  auto manifest = formats::manifest_from_file(checkpoint / "manifest.json");
  auto state = nlohmann::json::parse(manifest.state_json);
  ASSERT_EQ(state.erase("inputs"), 1u);
  manifest.state_json = state.dump();
  write_file(checkpoint / "manifest.json", formats::manifest_to_json(manifest));
}

TEST_F(RunInputs, OfACheckpointWithoutARecordAreKnownByTheirPaths) {
  begin();
  forget_inputs(checkpoint_of(runs_.path("run"), kHalf));
  fs::copy_file(runs_.path("tiny.tokens"), runs_.path("copy.tokens"));
  const auto paths = config_.data.paths;
  config_.data.paths = {runs_.path("copy.tokens").string()};
  expect_refused("data.paths: the run has [\"" + paths[0] + "\"], now [\"" + config_.data.paths[0]);
  config_.data.paths = paths;
  config_.train.steps = kSteps - 1;
  go_on();
  write_shard(runs_.path("tiny.tokens"), 3);
  config_.train.steps = kSteps;
  expect_refused("data.paths: the run has file 0");
}

TEST_F(RunInputs, ABrokenRecordIsAnError) {
  begin();
  const fs::path file = checkpoint_of(runs_.path("run"), kHalf) / "manifest.json";
  auto manifest = formats::manifest_from_file(file);
  auto state = nlohmann::json::parse(manifest.state_json);
  state["inputs"]["data"][0].erase("bytes");
  manifest.state_json = state.dump();
  write_file(file, formats::manifest_to_json(manifest));
  test::expect_error<CheckpointError>([&] { go_on(); }, file.parent_path().string(),
                                      "state.inputs: ", "bytes");
}

}  // namespace
}  // namespace fbi::train
