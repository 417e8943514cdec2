// Runs that change their number of ranks. Ranks are threads of forked processes, as in
// parallel_test.cpp.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "distributed/ranks.h"
#include "fbi/checkpoint/checkpoint_tensors.h"
#include "fbi/core/error.h"
#include "fbi/nn/weights.h"
#include "support/child_process.h"
#include "support/expect_error.h"
#include "support/flip_bit.h"
#include "train/run_folder.h"
#include "train/session.h"
#include "train/tiny_run.h"

namespace fbi::train {
namespace {

constexpr int kStage = 4;  // steps between changes of world size

/// 12 samples a step divide over 1, 2, 3 and 4 ranks; the schedule is fixed, since micro-steps
/// change.
config::RunConfig twelve_samples(const TinyRuns& runs) {
  config::RunConfig c = runs.config();
  c.train.global_batch = 12;
  c.train.micro_batch = 1;
  c.optimizer.total_steps = 5 * kStage;
  c.optimizer.schedule_micro_steps = 12;
  return c;
}

void in_ranks(int size, const std::function<void(distributed::Communicator&)>& body) {
  test::Child child([&] {
    test::run_ranks_ok(size, [&](distributed::Communicator& communicator) {
      at::set_num_threads(1);
      body(communicator);
    });
  });
  ASSERT_EQ(child.wait(), 0);
}

void train_until(TinyRuns& runs, const std::string& name, int ranks, int steps,
                 const std::string& resume = "auto") {
  in_ranks(ranks, [&](distributed::Communicator& communicator) {
    config::RunConfig c = twelve_samples(runs);
    c.train.steps = steps;
    runs.run_rank(communicator, c, name, resume);
  });
}

std::vector<double> losses(const std::filesystem::path& run) {
  std::vector<double> out;
  for (const auto& line : metrics_lines(run))
    out.push_back(nlohmann::json::parse(line + "}").at("loss"));
  return out;
}

/// Whole tensors of a checkpoint, whoever wrote it.
Fingerprint whole_tensors(const std::filesystem::path& folder) {
  const formats::CheckpointReader reader(folder);
  const checkpoint::CheckpointTensors tensors(reader);
  Fingerprint out;
  for (const auto& name : tensors.names()) {
    const at::Tensor tensor = tensors.load(name);
    out[name] =
        hash128_hex({static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()});
  }
  return out;
}

TEST(RunOnRanks, BranchesOffWithABeginningOfItsOwn) {
  TinyRuns runs;
  train_until(runs, "whole", 2, kStage);
  const auto end = checkpoint_of(runs.path("whole"), kStage);
  train_until(runs, "branch", 2, kStage + 1, end.string());
  EXPECT_EQ(whole_tensors(checkpoint_of(runs.path("branch"), kStage)), whole_tensors(end));
  train_until(runs, "branch", 3, 2 * kStage);
  EXPECT_EQ(losses(runs.path("branch")).size(), std::size_t{kStage});
}

TEST(RunOnRanks, ContinuesOnAnyNumberOfThem) {
  TinyRuns runs;
  train_until(runs, "whole", 1, 5 * kStage);
  int steps = 0;
  for (const int ranks : {1, 2, 4, 3, 1}) train_until(runs, "changing", ranks, steps += kStage);
  const auto expected = losses(runs.path("whole")), found = losses(runs.path("changing"));
  ASSERT_EQ(found.size(), 5u * kStage);
  ASSERT_EQ(expected.size(), found.size());
  for (std::size_t step = 0; step < found.size();
       ++step)  // the order of sums differs, nothing else
    EXPECT_NEAR(found[step], expected[step], 1e-6 * expected[step]) << "step " << step + 1;
}

/// Each rank compares a part of the bytes; what one finds, all go by.
TEST(RunOnRanks, FallBackTogetherFromADamagedFile) {
  TinyRuns runs;
  train_until(runs, "run", 3, kStage);
  train_until(runs, "run", 3, 2 * kStage);
  const auto newest = checkpoint_of(runs.path("run"), 2 * kStage);
  const auto shards = formats::CheckpointReader(newest).manifest().shards;
  for (const auto& shard : shards) {
    test::flip_last_bit(newest / shard.file);
    in_ranks(2, [&](distributed::Communicator& communicator) {
      const RunFolder folder({runs.path("run"), "auto", {}, "test", 0}, communicator);
      if (folder.checkpoint()->manifest().step != kStage)
        throw DataError(concat("rank ", communicator.rank(), " took the damaged one"));
    });
    test::flip_last_bit(newest / shard.file);
  }
}

TEST(RunOnRanks, OptimizerStateSurvivesEveryChangeBitForBit) {
  TinyRuns runs;
  train_until(runs, "run", 2, kStage);
  auto folder = checkpoint_of(runs.path("run"), kStage);
  const Fingerprint written = whole_tensors(folder);
  for (const int ranks : {4, 3, 1, 2}) {
    const auto copies = runs.path(concat("copy", ranks));
    std::filesystem::create_directories(copies);
    in_ranks(ranks, [&](distributed::Communicator& communicator) {
      config::RunConfig c = twelve_samples(runs);
      c.train.steps = kStage;
      config::resolve(c, ranks);
      Session session(c, communicator, {});
      session.restore(formats::CheckpointReader(folder));
      session.save(copies);
    });
    folder = copies / formats::checkpoint_folder_name(kStage);
    EXPECT_EQ(whole_tensors(folder), written) << ranks << " ranks";
  }
}

TEST(RunOnRanks, ANonFiniteGradientOnOneRankSkipsTheStepOnAll) {
  TinyRuns runs;
  in_ranks(2, [&](distributed::Communicator& communicator) {
    config::RunConfig c = twelve_samples(runs);
    c.train.steps = kStage;
    config::resolve(c, 2);
    Session session(c, communicator, {});
    session.start(nullptr);
    auto* slot = session.student().stage_slots(0).front();  // a norm that this rank alone has wrong
    if (communicator.rank() == 1)
      slot->value.data_ptr<float>()[0] = std::numeric_limits<float>::quiet_NaN();
    const StepMetrics metrics = session.trainer().step();
    if (!metrics.skipped || session.trainer().state().updates != 0)
      throw DataError(concat("rank ", communicator.rank(), " did not skip"));
  });
}

TEST(RunOnRanks, RefuseOtherDataTogether) {
  TinyRuns runs;
  train_until(runs, "run", 2, kStage);
  std::filesystem::remove(runs.path("tiny.tokens"));
  formats::TokenShardWriter writer(runs.path("tiny.tokens"), {kVocab, kSeqLen + 1, 0, ""});
  writer.add(std::vector<std::int32_t>(kSeqLen + 1, 5));
  writer.finish();
  in_ranks(2, [&](distributed::Communicator& communicator) {
    config::RunConfig c = twelve_samples(runs);
    c.train.steps = 2 * kStage;
    test::expect_error<UsageError>([&] { runs.run_rank(communicator, c, "run", "auto"); },
                                   "data.paths: the run has file 0, tiny.tokens");
    if (testing::Test::HasFailure()) throw DataError("another error than that of other data");
  });
}

}  // namespace
}  // namespace fbi::train
