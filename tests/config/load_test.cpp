// Reading: comments, syntax, types, ranges, unknown and repeated keys, overrides; all problems at
// once.
#include "fbi/config/load.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "config/sample_config.h"
#include "fbi/config/huggingface.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi::config::test {
namespace {

using fbi::test::expect_error;

TEST(Load, CommentsOfBothKindsAreAllowed) {
  const RunConfig config = parse(R"(// first line
{ /* several
     lines */
  "teacher": {"path": "http://not//a comment"},
  "data": {"paths": ["d"]}, // end of a line
  "train": {"steps": 3000}
})");
  EXPECT_EQ(config.teacher.path, "http://not//a comment");
  EXPECT_EQ(config.train.steps, 3000);
}

TEST(Load, MissingFieldsKeepTheirDefaults) {
  const RunConfig config = minimal();
  EXPECT_EQ(config.optimizer.lr, 3e-4);
  EXPECT_EQ(config.model.binarize, Binarize::kColumn);
  EXPECT_EQ(config.model.pad_token_id, std::nullopt);
  EXPECT_EQ(config.model.eos_token_id, std::vector<std::int64_t>{2});
}

TEST(Load, ReadsEveryKindOfValue) {
  const RunConfig config = parse(R"({
    "model": {"vocab_size": 64, "eos_token_id": [2, 5], "pad_token_id": 0, "binarize": "single",
              "rope_scaling": {"rope_type": "linear", "factor": 2}, "tie_word_embeddings": true},
    "teacher": {"path": "t", "dtype": "bf16"},
    "data": {"format": "amber", "paths": ["a", "b"], "skip_files": [7, 12], "seed": 18446744073709551615},
    "train": {"steps": 1e4, "precision": "bf16", "recompute": true}})");
  EXPECT_EQ(config.model.eos_token_id, (std::vector<std::int64_t>{2, 5}));
  EXPECT_EQ(config.model.pad_token_id, 0);
  EXPECT_EQ(config.model.binarize, Binarize::kSingle);
  EXPECT_EQ(config.model.rope_scaling.type, "linear");
  EXPECT_EQ(config.model.rope_scaling.factor, 2.0);
  EXPECT_TRUE(config.model.tie_word_embeddings);
  EXPECT_EQ(config.teacher.dtype, "bf16");
  EXPECT_EQ(config.data.format, DataFormat::kAmber);
  EXPECT_EQ(config.data.paths, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(config.data.skip_files, (std::vector<std::int64_t>{7, 12}));
  EXPECT_EQ(config.data.seed, std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(config.train.steps, 10000);
  EXPECT_EQ(config.train.precision, Precision::kBf16);
  EXPECT_TRUE(config.train.recompute);
}

TEST(Load, SyntaxErrorNamesFileLineAndColumn) {
  expect_error<UsageError>([] { parse("{\n  \"train\": {\"steps\": 5,}\n}"); }, "run.json:2:24",
                           "not valid JSON");
  expect_error<UsageError>([] { parse("{\n\n  \"train\": oops }"); }, "run.json:3:12");
  expect_error<UsageError>([] { parse(""); }, "run.json:1:1", "not valid JSON");
  expect_error<UsageError>([] { parse("{\"train\": {\"steps\": 5"); }, "run.json:1:");
  expect_error<UsageError>([] { parse("{\"optimizer\": {\"lr\": NaN}}"); }, "run.json:1:");
  expect_error<UsageError>([] { parse("{\"optimizer\": {\"lr\": 1e999}}"); },
                           "run.json:1:", "number overflow", "1e999");
  expect_error<UsageError>([] { parse("{} {}"); }, "run.json:1:");
  expect_error<UsageError>([] { parse("{\"teacher\": {\"path\": \"\xff\"}}"); }, "not valid JSON");
}

TEST(Load, DeepNestingIsRefused) {
  expect_error<UsageError>([] { parse("{\"a\":" + std::string(100000, '[')); }, "run.json",
                           "nested deeper");
}

TEST(Load, TheDocumentIsAnObject) {
  expect_error<UsageError>([] { parse("[1]"); }, "run.json", "expected a JSON object", "[1]");
}

TEST(Load, AllProblemsComeTogether) {
  const std::string message = expect_error<UsageError>(
      [] {
        parse(R"({
          "optimiser": {"lr": 1},
          "optimizer": {"lrr": 0.1, "beta1": 1.0, "eps": "small"},
          "train": {"steps": "many", "precision": "fp23", "seq_len": 1.5, "recompute": 1},
          "model": {"hidden_size": 100, "num_attention_heads": 12, "binarize": "colum"},
          "checkpoint": {"keep": 1}})");
      },
      "run.json: 13 problems\n",                                           //
      "\n  optimiser = {\"lr\":1}: unknown key; did you mean optimizer?",  //
      "\n  optimizer.lrr = 0.1: unknown key; did you mean optimizer.lr?",
      "\n  optimizer.beta1 = 1: expected a number >= 0 and < 1",
      "\n  optimizer.eps = \"small\": expected a number >= 1e-37",
      "\n  train.steps = \"many\": expected an integer from 1 to 1073741824",
      "\n  train.precision = \"fp23\": expected one of fp32 | bf16; did you mean \"fp32\"?",
      "\n  train.seq_len = 1.5: expected an integer from 1 to ",
      "\n  train.recompute = 1: expected true or false",
      "\n  model.hidden_size = 100: expected a multiple of num_attention_heads (12)",
      "\n  model.binarize = \"colum\": expected one of column | row | single | none; did you mean "
      "\"column\"?",
      "\n  checkpoint.keep = 1: expected an integer >= 2",
      "\n  data.paths = []: expected a list of texts, at least one; this field is required",
      "\n  teacher.path = \"\": expected a model folder, because objective.distill is 1");
  // A value of the wrong type is reported once, without rules that would follow from it.
  EXPECT_EQ(message.find("warmup_steps"), std::string::npos) << message;
}

TEST(Load, OneProblemIsOneLine) {
  const std::string message =
      expect_error<UsageError>([] { minimal({"optimizer.lr=-1"}); }, "optimizer.lr = -1");
  EXPECT_EQ(message, "run.json: optimizer.lr = -1: expected a number >= 0 (from --set)");
}

TEST(Load, RightKeyInTheWrongSectionIsFound) {
  expect_error<UsageError>(
      [] { minimal({"train.weight_decay=0.2"}); },
      "train.weight_decay = 0.2: unknown key; did you mean optimizer.weight_decay?");
  expect_error<UsageError>([] { minimal({"optimizer.groups.norms.lr=1"}); },
                           "did you mean optimizer.groups.norm?");
  const std::string message =
      expect_error<UsageError>([] { minimal({"xyzzy=1"}); }, "xyzzy = 1: unknown key");
  EXPECT_EQ(message.find("did you mean"), std::string::npos);
}

TEST(Load, NamesOfOtherProgramsAreTranslated) {
  const auto suggests = [](const std::string& given, const std::string& ours) {
    expect_error<UsageError>([&] { minimal({given + "=1"}); },
                             given + " = 1: unknown key; did you mean " + ours + "?");
  };
  suggests("learning_rate", "optimizer.lr");
  suggests("optimizer.learning_rate", "optimizer.lr");
  suggests("optimizer.groups.norm.learning_rate", "optimizer.groups.norm.lr");
  suggests("train.min_lr", "optimizer.end_lr");
  suggests("lr_scheduler_type", "optimizer.schedule");
  suggests("batch_size", "train.micro_batch");
  suggests("teacher.batch_size", "teacher.micro_batch");
  suggests("evaluation.batch_size", "evaluation.batch");
  suggests("train.gradient_accumulation_steps", "train.global_batch");
  suggests("train.max_iters", "train.steps");
  suggests("optimizer.max_steps", "train.steps");
  suggests("block_size", "train.seq_len");
  suggests("model.n_layer", "model.num_hidden_layers");
  suggests("model.n_head", "model.num_attention_heads");
  suggests("n_embd", "model.hidden_size");
}

TEST(Load, RepeatedKeysAreErrors) {
  expect_error<UsageError>(
      [] { parse(R"({"train": {"steps": 1, "steps": 2}, "train": {"seq_len": 8}})"); },
      "\n  train.steps: the key is given twice", "\n  train: the key is given twice");
}

TEST(Load, SectionsAreObjects) {
  expect_error<UsageError>([] { parse(R"({"train": 5})"); }, "train = 5: expected an object");
  expect_error<UsageError>([] { minimal({"optimizer.groups=[1]"}); },
                           "optimizer.groups = [1]: expected an object");
  expect_error<UsageError>([] { minimal({"train.seq_len.x=1"}); }, "train.seq_len = {\"x\":1}",
                           "expected an integer");
  expect_error<UsageError>([] { minimal({"model=7"}); },
                           "model = 7: expected an object {...} or the path of a file");
}

TEST(Load, IntegersDoNotOverflow) {
  expect_error<UsageError>([] { minimal({"train.steps=18446744073709551615"}); },
                           "train.steps = 18446744073709551615: expected an integer");
  expect_error<UsageError>([] { minimal({"train.steps=1e30"}); }, "expected an integer");
  expect_error<UsageError>([] { minimal({"train.seed=-1"}); }, "train.seed = -1", "integer >= 0");
  expect_error<UsageError>(
      [] { minimal({"model.num_hidden_layers=1000000000"}); },
      "model.num_hidden_layers = 1000000000: expected an integer from 1 to 4096");
}

TEST(Load, ValuesBuiltInCodeAreCheckedToo) {
  RunConfig config = minimal();
  config.optimizer.lr = std::numeric_limits<double>::quiet_NaN();
  config.objective.temperature = std::numeric_limits<double>::infinity();
  config.train.device = "tpu";
  config.model.binarize = static_cast<Binarize>(9);
  config.data.paths = {""};
  expect_error<UsageError>(
      [&] { validate(config, 1); }, "optimizer.lr = nan: expected a number >= 0",
      "objective.temperature = inf: expected a number > 0",
      "train.device = \"tpu\": expected one of auto | cpu | cuda",
      "model.binarize = \"invalid\": expected one of column", "data.paths = [\"\"]");
}

TEST(Load, AnFp8TeacherStaysWhole) {
  EXPECT_NO_THROW(minimal({"teacher.dtype=fp8"}));
  expect_error<UsageError>(
      [] {
        minimal({"teacher.dtype=fp8", "parallel.shard_teacher=true"});
      },
      "parallel.shard_teacher = true: expected false", "teacher.dtype is fp8");
}

struct Boundary {
  const char* good;
  const char* bad;
};

class Boundaries : public testing::TestWithParam<Boundary> {};

TEST_P(Boundaries, LastLegalAndFirstIllegalValue) {
  const std::vector<std::string> good = {GetParam().good};
  EXPECT_NO_THROW(minimal(good));
  const std::string bad = GetParam().bad;
  expect_error<UsageError>([&] { minimal({bad}); }, bad.substr(0, bad.find('=')), "expected");
}

INSTANTIATE_TEST_SUITE_P(
    Fields, Boundaries,
    testing::Values(Boundary{"model.vocab_size=3", "model.vocab_size=0"},
                    Boundary{"model.num_hidden_layers=4096", "model.num_hidden_layers=4097"},
                    Boundary{"model.rms_norm_eps=1e-30", "model.rms_norm_eps=0"},
                    Boundary{"model.rope_theta=0.5", "model.rope_theta=0"},
                    Boundary{"model.initializer_range=0", "model.initializer_range=-0.1"},
                    Boundary{"model.pad_token_id=0", "model.pad_token_id=-1"},
                    Boundary{"model.bos_token_id=0", "model.bos_token_id=-1"},
                    Boundary{"model.eos_token_id=[]", "model.eos_token_id=[2,-1]"},
                    Boundary{"teacher.dtype=fp16", "teacher.dtype=int4"},
                    Boundary{"data.weights=[1e-300]", "data.weights=[0]"},
                    Boundary{"data.weights=1e18", "data.weights=1.1e18"},
                    Boundary{"data.skip_files=[0]", "data.skip_files=[-1]"},
                    Boundary{"data.seed=0", "data.seed=-1"},
                    Boundary{"objective.next_token=0", "objective.next_token=-1e-9"},
                    Boundary{"objective.temperature=1e-9", "objective.temperature=0"},
                    Boundary{"optimizer.lr=0", "optimizer.lr=-1e-9"},
                    Boundary{"optimizer.end_lr=0", "optimizer.end_lr=-1e-9"},
                    Boundary{"optimizer.beta1=0", "optimizer.beta1=1"},
                    Boundary{"optimizer.beta2=0.999999", "optimizer.beta2=1"},
                    Boundary{"optimizer.eps=1e-37", "optimizer.eps=9e-38"},
                    Boundary{"optimizer.weight_decay=0", "optimizer.weight_decay=-1"},
                    Boundary{"optimizer.clip_norm=0", "optimizer.clip_norm=-1"},
                    Boundary{"optimizer.warmup_steps=0", "optimizer.warmup_steps=-1"},
                    Boundary{"optimizer.schedule=constant", "optimizer.schedule=step"},
                    Boundary{"optimizer.decay_steps=0", "optimizer.decay_steps=-1"},
                    Boundary{"optimizer.schedule_micro_steps=0",
                             "optimizer.schedule_micro_steps=-1"},
                    Boundary{"optimizer.groups.scale.lr=0", "optimizer.groups.scale.lr=-1"},
                    Boundary{"train.seq_len=1", "train.seq_len=0"},
                    Boundary{"train.micro_batch=1", "train.micro_batch=0"},
                    Boundary{"train.steps=1073741824", "train.steps=1073741825"},
                    Boundary{"train.loss_chunk_tokens=1", "train.loss_chunk_tokens=0"},
                    Boundary{"train.max_skipped_in_row=1", "train.max_skipped_in_row=0"},
                    Boundary{"train.threads=0", "train.threads=-1"},
                    Boundary{"train.device=cuda", "train.device=gpu"},
                    Boundary{"checkpoint.every_steps=0", "checkpoint.every_steps=-1"},
                    Boundary{"checkpoint.every_seconds=0", "checkpoint.every_seconds=-1"},
                    Boundary{"checkpoint.keep=2", "checkpoint.keep=1"},
                    Boundary{"checkpoint.keep_every=0", "checkpoint.keep_every=-1"},
                    Boundary{"log.every_steps=1", "log.every_steps=0"}));

TEST(Load, StepsAreRequired) {
  expect_error<UsageError>([] { minimal({"train.steps=0"}); }, "train.steps = 0", "required");
}

TEST(Overrides, ValueIsJsonOrElseText) {
  const RunConfig config = minimal({"optimizer.lr=2e-4", "model.binarize=row", "teacher.path=a=b",
                                    "train.recompute=true", "data.paths=[\"x\", \"y\"]",
                                    "model.pad_token_id=null", "data.skip_files=3"});
  EXPECT_EQ(config.optimizer.lr, 2e-4);
  EXPECT_EQ(config.model.binarize, Binarize::kRow);
  EXPECT_EQ(config.teacher.path, "a=b");
  EXPECT_TRUE(config.train.recompute);
  EXPECT_EQ(config.data.paths, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(config.data.skip_files, std::vector<std::int64_t>{3});
}

TEST(LoadModelConfig, TakesTheModelOfARunAsTheRunWould) {
  const fbi::test::TempDir folder;
  const auto read = [&](const std::string& text) {
    write_file(folder / "file.json", text);
    return load_model_config(folder / "file.json");
  };
  ModelConfig model;
  model.hidden_size = 64;
  model.num_attention_heads = 4;
  model.vocab_size = 100;
  resolve(model);
  write_file(folder / "shape.json", model_config_to_hf_json(model, "float16"));
  EXPECT_EQ(read(read_file(folder / "shape.json")), model);
  EXPECT_EQ(read(R"({"model": "shape.json"})"), model);
  model.binarize = Binarize::kRow;
  EXPECT_EQ(read(R"({"model": {"architecture": "shape.json", "binarize": "row"}, "train": {}})"),
            model);
  expect_error<UsageError>([&] { read(R"({"model": {"hidden_sise": 8}})"); }, "file.json",
                           "did you mean model.hidden_size?");
  expect_error<DataError>([&] { read("[]"); }, "file.json");
}

TEST(Overrides, NullTakesBackWhatTheArchitectureHas) {
  const std::string scaled =
      R"({"teacher": {"path": "t"}, "data": {"paths": "d"}, "train": {"steps": 2000},
          "model": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}})";
  EXPECT_EQ(parse(scaled).model.rope_theta, 5e5);
  const RunConfig config = parse(scaled, {"model.rope_parameters=null"});
  EXPECT_EQ(config.model.rope_theta, ModelConfig().rope_theta);
  EXPECT_EQ(config.model.rope_scaling, RopeScaling{});
}

TEST(Overrides, LaterOnesWin) {
  EXPECT_EQ(minimal({"train.seed=1", "train.seed=2"}).train.seed, 2u);
}

TEST(Overrides, ObjectsAreMerged) {
  const RunConfig config = parse(
      R"({"teacher": {"path": "t"}, "data": {"paths": "d"},
          "optimizer": {"groups": {"latent": {"lr": 2}}}, "train": {"steps": 3000, "seed": 5}})",
      {R"(optimizer.groups={"latent": {"weight_decay": 3}})", R"(train={"seed": 6})"});
  EXPECT_EQ(config.optimizer.groups.latent.lr, 2);
  EXPECT_EQ(config.optimizer.groups.latent.weight_decay, 3);
  EXPECT_EQ(config.train.seed, 6u);
  EXPECT_EQ(config.train.steps, 3000);
}

TEST(Overrides, TextsMayLookLikeNumbers) {
  const RunConfig config = minimal({"teacher.path=2024", "train.init_from=true", "data.paths=7"});
  EXPECT_EQ(config.teacher.path, "2024");
  EXPECT_EQ(config.train.init_from, "true");
  EXPECT_EQ(config.data.paths, std::vector<std::string>{"7"});
}

TEST(Overrides, RepairWhatTheFileHasWrong) {
  EXPECT_EQ(parse(R"({"teacher": {"path": "t"}, "data": {"paths": "d"}, "train": {"steps": "x"}})",
                  {"train.steps=2000"})
                .train.steps,
            2000);
}

TEST(Overrides, OneOfAnUnknownSectionIsNamed) {
  expect_error<UsageError>([] { minimal({"optimiser.lr=1"}); }, "optimiser", "(from --set)");
  expect_error<UsageError>([] { minimal({"speed=1"}); }, "speed", "(from --set)");
}

TEST(Overrides, BadOnesAreNamed) {
  expect_error<UsageError>([] { minimal({"optimizer.lr"}); }, "--set optimizer.lr",
                           "expected KEY=VALUE");
  expect_error<UsageError>([] { minimal({"=3"}); }, "expected KEY=VALUE");
  expect_error<UsageError>([] { minimal({"data.paths=[a, b]"}); }, "data.paths = [a, b]",
                           "not valid JSON");
  expect_error<UsageError>([] { minimal({"optimizer.lr=fast"}); },
                           "optimizer.lr = \"fast\": expected a number >= 0 (from --set)");
  expect_error<UsageError>([] { minimal({"optimizer.lr=nan"}); }, "optimizer.lr = \"nan\"");
  expect_error<UsageError>([] { minimal({"optimizer.lr=1e999"}); }, "optimizer.lr = \"1e999\"");
  expect_error<UsageError>([] { minimal({"train.seed=null"}); }, "train.seed = null");
  expect_error<UsageError>([] { minimal({"teacher.path=\xff"}); }, "teacher.path",
                           "not valid UTF-8");
  expect_error<UsageError>([] { minimal({R"(train={"seed": 1, "seed": 2})"}); },
                           "train.seed: the key is given twice");
  std::string deep = "a";
  for (int i = 0; i < 100000; ++i) deep += ".a";
  expect_error<UsageError>([&] { minimal({deep + "=1"}); }, "unknown key");
}

TEST(Load, FromAFile) {
  const fbi::test::TempDir folder;
  const auto path = folder / "run.json";
  write_file(path, kMinimal);
  EXPECT_EQ(load_run_config(path).train.steps, 3000);
  EXPECT_EQ(load_run_config(path, {.overrides = {"train.steps=4000"}}).train.steps, 4000);
  expect_error<UsageError>([&] { load_run_config(folder / "absent.json"); }, "absent.json",
                           "cannot read the configuration");
  expect_error<UsageError>([&] { load_run_config(folder.path()); }, folder.path().string());
}

}  // namespace
}  // namespace fbi::config::test
