// Rules between fields, and values that follow from others.
#include <gtest/gtest.h>

#include "config/sample_config.h"
#include "fbi/core/error.h"
#include "support/expect_error.h"

namespace fbi::config::test {
namespace {

using fbi::test::expect_error;

TEST(Resolve, HeadsFollowFromTheModel) {
  const ModelConfig model = minimal().model;
  EXPECT_EQ(model.num_key_value_heads, 12);
  EXPECT_EQ(model.head_dim, 64);
  const ModelConfig explicit_model =
      minimal({"model.num_key_value_heads=4", "model.head_dim=32"}).model;
  EXPECT_EQ(explicit_model.num_key_value_heads, 4);
  EXPECT_EQ(explicit_model.head_dim, 32);
}

TEST(Resolve, CosineTakesTheLengthOfTheRun) {
  EXPECT_EQ(minimal().optimizer.total_steps, 3000);
  EXPECT_EQ(minimal({"optimizer.total_steps=5000"}).optimizer.total_steps, 5000);
}

TEST(Resolve, ScheduleTakesTheRunsOwnMicroSteps) {
  EXPECT_EQ(
      minimal({"train.global_batch=96", "train.micro_batch=8"}, 4).optimizer.schedule_micro_steps,
      3);
  EXPECT_EQ(minimal({"optimizer.schedule_micro_steps=7"}).optimizer.schedule_micro_steps, 7);
}

TEST(Resolve, ContinuedRunKeepsItsScheduleOnAnotherWorld) {
  const RunConfig first = minimal({"train.global_batch=96", "train.micro_batch=8"}, 4);
  LoadOptions options{.overrides = {"train.global_batch=96", "train.micro_batch=8"},
                      .world_size = 12,
                      .continued = &first};
  EXPECT_EQ(parse_run_config(kMinimal, "run.json", ".", options).optimizer.schedule_micro_steps, 3);
  options.overrides.push_back("optimizer.schedule_micro_steps=1");
  EXPECT_EQ(parse_run_config(kMinimal, "run.json", ".", options).optimizer.schedule_micro_steps, 1);
}

TEST(Resolve, TwiceIsOnce) {
  RunConfig config = minimal({}, 4);
  const RunConfig before = config;
  resolve(config, 2);
  EXPECT_EQ(config.model, before.model);
  EXPECT_EQ(config.optimizer.total_steps, before.optimizer.total_steps);
  EXPECT_EQ(config.optimizer.schedule_micro_steps, before.optimizer.schedule_micro_steps);
}

TEST(MicroSteps, DivideTheGlobalBatch) {
  TrainConfig train;
  train.global_batch = 96;
  train.micro_batch = 8;
  EXPECT_EQ(micro_steps_per_step(train, 1), 12);
  EXPECT_EQ(micro_steps_per_step(train, 12), 1);
  expect_error<UsageError>([&] { micro_steps_per_step(train, 5); }, "train.global_batch = 96",
                           "multiple of 40");
  expect_error<UsageError>([&] { micro_steps_per_step(train, 24); }, "multiple of 192");
  expect_error<UsageError>([&] { micro_steps_per_step(train, 0); }, "world size 0");
}

TEST(Rules, HeadsDivideTheHiddenSizeUnlessTheirSizeIsGiven) {
  EXPECT_NO_THROW(minimal({"model.hidden_size=100", "model.head_dim=16"}));
  expect_error<UsageError>(
      [] { minimal({"model.hidden_size=100"}); },
      "model.hidden_size = 100: expected a multiple of num_attention_heads (12)");
}

TEST(Rules, KeyValueHeadsDivideTheHeads) {
  EXPECT_NO_THROW(minimal({"model.num_key_value_heads=1"}));
  EXPECT_NO_THROW(minimal({"model.num_key_value_heads=12"}));
  for (const char* heads : {"5", "24"}) {
    expect_error<UsageError>([&] { minimal({std::string("model.num_key_value_heads=") + heads}); },
                             "model.num_key_value_heads",
                             "expected a divisor of num_attention_heads (12)");
  }
}

TEST(Rules, HeadSizeIsEven) {
  expect_error<UsageError>([] { minimal({"model.head_dim=63"}); }, "model.head_dim = 63",
                           "expected an even number");
  expect_error<UsageError>([] { minimal({"model.hidden_size=36"}); }, "model.head_dim = 3",
                           "expected an even number");
}

TEST(Rules, PaddingTokenIsInTheVocabulary) {
  EXPECT_NO_THROW(minimal({"model.pad_token_id=31999"}));
  expect_error<UsageError>([] { minimal({"model.pad_token_id=32000"}); },
                           "model.pad_token_id = 32000: expected less than vocab_size (32000)");
}

TEST(Rules, TiedScalesAndNoShiftAreForColumns) {
  EXPECT_NO_THROW(minimal({"model.tie_scales=true", "model.shift=false"}));
  for (const std::string binarize : {"row", "single", "none"}) {
    expect_error<UsageError>(
        [&] {
          minimal({"model.tie_scales=true", "model.shift=false", "model.binarize=" + binarize});
        },
        "model.tie_scales = true: expected false", "model.shift = false: expected true",
        "binarize is " + binarize);
  }
}

TEST(Rules, Llama3RopeIsComplete) {
  const std::string rope =
      R"(model.rope_scaling={"rope_type": "llama3", "factor": 8, "original_max_position_embeddings": 8192})";
  EXPECT_NO_THROW(minimal({rope}));
  expect_error<UsageError>([] { minimal({"model.rope_scaling.rope_type=llama3"}); },
                           "model.rope_scaling.original_max_position_embeddings = 0");
  expect_error<UsageError>(
      [&] {
        minimal({rope, "model.rope_scaling.low_freq_factor=4"});
      },
      "model.rope_scaling.low_freq_factor = 4", "less than high_freq_factor (4)");
}

TEST(Rules, SomethingIsLearned) {
  EXPECT_NO_THROW(minimal({"objective.next_token=0.5", "objective.distill=0.5"}));
  expect_error<UsageError>([] { minimal({"objective.distill=0"}); }, "objective", "both 0");
}

TEST(Rules, DistillationNeedsATeacher) {
  expect_error<UsageError>([] { minimal({"teacher.path="}); }, "teacher.path",
                           "objective.distill is 1");
  EXPECT_NO_THROW(minimal({"teacher.path=", "objective.distill=0", "objective.next_token=1"}));
  EXPECT_NO_THROW(minimal({"objective.distill=0", "objective.next_token=1"}));
}

TEST(Rules, EveryPathHasAWeightOrNone) {
  EXPECT_EQ(minimal({"data.paths=[\"a\", \"b\"]", "data.weights=[0.7, 3]"}).data.weights,
            (std::vector<double>{0.7, 3}));
  expect_error<UsageError>(
      [] {
        minimal({"data.paths=[\"a\", \"b\", \"c\"]", "data.weights=[0.5, 2]"});
      },
      "data.weights = [0.5,2.0]: expected as many numbers as data.paths has entries (3), or none");
  expect_error<UsageError>([] { minimal({"data.weights=[1, 2]"}); }, "has entries (1)");
}

TEST(Rules, BatchDivides) {
  EXPECT_NO_THROW(minimal({"train.global_batch=32", "train.micro_batch=8"}, 4));
  EXPECT_NO_THROW(minimal({"train.micro_batch=8", "teacher.micro_batch=8"}));
  expect_error<UsageError>(
      [] {
        minimal({"train.micro_batch=8", "teacher.micro_batch=3"});
      },
      "teacher.micro_batch = 3: expected a divisor of train.micro_batch (8), or 0");
  expect_error<UsageError>(
      [] {
        minimal({"train.global_batch=24", "train.micro_batch=16"});
      },
      "train.global_batch = 24: expected a multiple of 16 (micro_batch 16 x 1 rank)");
  expect_error<UsageError>(
      [] {
        minimal({"train.global_batch=32", "train.micro_batch=8"}, 3);
      },
      "expected a multiple of 24 (micro_batch 8 x 3 ranks)");
  expect_error<UsageError>([] { minimal({}, 0); }, "world size = 0");
}

TEST(Rules, SequenceFitsTheModel) {
  EXPECT_NO_THROW(minimal({"train.seq_len=2048"}));
  expect_error<UsageError>(
      [] { minimal({"train.seq_len=2049"}); },
      "train.seq_len = 2049: expected at most model.max_position_embeddings (2048)");
}

TEST(Rules, WarmupEndsWithTheScheduleAtTheLatest) {
  EXPECT_NO_THROW(minimal({"train.steps=2000"}));
  expect_error<UsageError>([] { minimal({"train.steps=1999"}); },
                           "optimizer.warmup_steps = 2000: expected at most train.steps (1999)");
  EXPECT_NO_THROW(minimal({"train.steps=5", "optimizer.total_steps=2000"}));
  expect_error<UsageError>([] { minimal({"optimizer.total_steps=1999"}); },
                           "expected at most optimizer.total_steps (1999)");
}

TEST(Rules, DecayIsForWsdWhichNeedsIt) {
  EXPECT_NO_THROW(minimal({"optimizer.schedule=wsd", "optimizer.decay_steps=1"}));
  expect_error<UsageError>(
      [] { minimal({"optimizer.schedule=wsd"}); },
      "optimizer.decay_steps = 0: expected at least 1, because optimizer.schedule is wsd");
  for (const std::string schedule : {"cosine", "linear", "constant"}) {
    EXPECT_NO_THROW(minimal({"optimizer.schedule=" + schedule}));
    expect_error<UsageError>(
        [&] {
          minimal({"optimizer.schedule=" + schedule, "optimizer.decay_steps=100"});
        },
        "optimizer.decay_steps = 100: expected 0, because optimizer.schedule is " + schedule);
  }
}

TEST(Rules, DecayBeginsAfterTheWarmup) {
  const std::string wsd = "optimizer.schedule=wsd";
  EXPECT_NO_THROW(minimal({wsd, "optimizer.decay_steps=1000"}));
  expect_error<UsageError>(
      [&] {
        minimal({wsd, "optimizer.decay_steps=1001"});
      },
      "optimizer.decay_steps = 1001: expected at most 1000, what optimizer.warmup_steps (2000) "
      "leaves of train.steps (3000)");
  expect_error<UsageError>(
      [&] {
        minimal({wsd, "optimizer.decay_steps=501", "optimizer.total_steps=2500"});
      },
      "expected at most 500", "optimizer.total_steps (2500)");
  expect_error<UsageError>(
      [&] {
        minimal({wsd, "optimizer.decay_steps=1", "train.steps=1999"});
      },
      "optimizer.warmup_steps = 2000");
}

TEST(Rules, TokensCanBeCounted) {
  expect_error<UsageError>(
      [] {
        minimal({"train.steps=1073741824", "train.global_batch=1048576", "train.seq_len=1048576",
                 "model.max_position_embeddings=1048576"});
      },
      "train.steps", "more tokens than can be counted");
}

}  // namespace
}  // namespace fbi::config::test
