// Hugging Face architecture files: as the model of a run, as a teacher's config.json, and written.
#include <gtest/gtest.h>

#include <filesystem>

#include "config/sample_config.h"
#include "fbi/config/huggingface.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi::config::test {
namespace {

using fbi::test::expect_error;

// The kind of file that is published with FBI-LLM.
constexpr const char* kPublished = R"({
  "_name_or_path": "FBI-LLM_llama2_130M", "architectures": ["LlamaForCausalLM"],
  "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
  "hidden_act": "silu", "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 2048,
  "max_position_embeddings": 2048, "max_sequence_length": 2048, "mlp_bias": false,
  "model_type": "llama", "num_attention_heads": 12, "num_hidden_layers": 12,
  "num_key_value_heads": 12, "pad_token_id": 0, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
  "rope_scaling": null, "tie_word_embeddings": false, "torch_dtype": "float16",
  "transformers_version": "4.32.1", "use_cache": true, "vocab_size": 32000})";

ModelConfig read(const std::string& text) {
  return model_config_from_hf_json(text, "config.json");
}

// `keys`, an object, with the sizes that every file has.
ModelConfig read_with_sizes(const std::string& keys) {
  const std::string sizes =
      R"({"vocab_size": 64, "hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 12)";
  return read(sizes + (keys == "{}" ? "" : ", ") + keys.substr(1));
}

TEST(Architecture, PublishedFileIsReadUnchanged) {
  const ModelConfig model = read(kPublished);
  EXPECT_EQ(model.hidden_size, 768);
  EXPECT_EQ(model.num_key_value_heads, 12);
  EXPECT_EQ(model.head_dim, 64);
  EXPECT_EQ(model.pad_token_id, 0);
  EXPECT_EQ(model.rms_norm_eps, 1e-5);
  EXPECT_EQ(model.rope_theta, 10000.0);
  EXPECT_EQ(model.rope_scaling, RopeScaling{});
  EXPECT_EQ(model.binarize, Binarize::kNone);
}

TEST(Architecture, OldAndNewRopeKeysMeanTheSame) {
  const ModelConfig old_style = read_with_sizes(
      R"({"rope_theta": 500000, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}})");
  const ModelConfig new_style = read_with_sizes(
      R"({"rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}})");
  EXPECT_EQ(old_style, new_style);
  EXPECT_EQ(old_style.rope_theta, 500000.0);
  EXPECT_EQ(old_style.rope_scaling.factor, 8.0);
  EXPECT_EQ(old_style.rope_scaling.original_max_position_embeddings, 8192);
  EXPECT_EQ(
      read_with_sizes(R"({"rope_scaling": {"type": "linear", "factor": 2.0}})").rope_scaling.type,
      "linear");
  EXPECT_EQ(read_with_sizes(R"({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}})")
                .rope_theta,
            1e6);
}

TEST(Architecture, NullMeansAbsent) {
  const ModelConfig model = read_with_sizes(
      R"({"head_dim": null, "num_key_value_heads": null, "pad_token_id": null, "bos_token_id": null,
          "rope_scaling": null, "sliding_window": null, "quantization_config": null, "eos_token_id": null})");
  EXPECT_EQ(model.head_dim, 8);
  EXPECT_EQ(model.num_key_value_heads, 12);
  EXPECT_EQ(model.pad_token_id, std::nullopt);
  EXPECT_TRUE(model.eos_token_id.empty());
  EXPECT_EQ(read_with_sizes(R"({"pad_token_id": -1})").pad_token_id, std::nullopt);
}

TEST(Architecture, UnknownKeysAreIgnored) {
  EXPECT_EQ(read_with_sizes(R"({"made_up": {"x": [1]}, "id2label": {"0": "a"}})").hidden_size, 96);
}

TEST(Architecture, TrickyListsOfEndTokens) {
  EXPECT_EQ(read_with_sizes(R"({"eos_token_id": [5, 6]})").eos_token_id,
            (std::vector<std::int64_t>{5, 6}));
  EXPECT_EQ(read_with_sizes(R"({"eos_token_id": 7})").eos_token_id, std::vector<std::int64_t>{7});
}

struct RefusedCase {
  const char* key;
  const char* text;
};

class RefusedKeys : public testing::TestWithParam<RefusedCase> {};

TEST_P(RefusedKeys, AreNamed) {
  expect_error<DataError>([] { read_with_sizes(GetParam().text); }, "config.json: ", GetParam().key,
                          "not implemented");
}

INSTANTIATE_TEST_SUITE_P(
    All, RefusedKeys,
    testing::Values(RefusedCase{"attention_bias = true", R"({"attention_bias": true})"},
                    RefusedCase{"mlp_bias = true", R"({"mlp_bias": true})"},
                    RefusedCase{"sliding_window = 4096", R"({"sliding_window": 4096})"},
                    RefusedCase{"use_sliding_window", R"({"use_sliding_window": true})"},
                    RefusedCase{"hidden_act = \"gelu\"", R"({"hidden_act": "gelu"})"},
                    RefusedCase{"quantization_config",
                                R"({"quantization_config": {"quant_method": "gptq"}})"},
                    RefusedCase{"model_type = \"mistral\"", R"({"model_type": "mistral"})"},
                    RefusedCase{"attention_dropout = 0.1", R"({"attention_dropout": 0.1})"},
                    RefusedCase{"partial_rotary_factor = 0.5", R"({"partial_rotary_factor": 0.5})"},
                    RefusedCase{"rope_parameters.partial_rotary_factor = 0.5",
                                R"({"rope_parameters": {"partial_rotary_factor": 0.5}})"},
                    RefusedCase{"layer_types", R"({"layer_types": ["sliding_attention"]})"}));

TEST(Architecture, UnknownRopeTypeIsRefused) {
  for (const char* type : {"yarn", "dynamic", "longrope"}) {
    expect_error<DataError>(
        [&] {
          read_with_sizes(std::string(R"({"rope_scaling": {"type": ")") + type +
                          R"(", "factor": 2}})");
        },
        "rope_scaling.rope_type = \"", type, "default | linear | llama3");
  }
  expect_error<DataError>([] { read_with_sizes(R"({"rope_scaling": {"rope_type": "linear"}})"); },
                          "rope_scaling.factor: missing");
  expect_error<DataError>(
      [] { read_with_sizes(R"({"rope_scaling": {"rope_type": "llama3", "factor": 8}})"); },
      "low_freq_factor: missing", "high_freq_factor: missing",
      "original_max_position_embeddings: missing");
  expect_error<DataError>([] { read_with_sizes(R"({"rope_scaling": "linear"})"); }, "rope_scaling",
                          "expected an object");
  expect_error<DataError>(
      [] {
        read_with_sizes(
            R"({"rope_scaling": {"rope_type": "default"}, "rope_parameters": {"rope_type": "default"}})");
      },
      "rope_parameters", "only one of the two");
}

TEST(Architecture, OneOfTwoRopeThetasIsNotPassedOver) {
  expect_error<DataError>(
      [] {
        read_with_sizes(R"({"rope_theta": 10000, "rope_parameters": {"rope_theta": 500000}})");
      },
      "rope_parameters.rope_theta = 500000", "rope_theta, which is 10000");
  EXPECT_EQ(read_with_sizes(R"({"rope_theta": 10000, "rope_parameters": {"rope_theta": 1e4}})")
                .rope_theta,
            1e4);
}

TEST(Architecture, AllProblemsOfAFileComeTogether) {
  expect_error<DataError>(
      [] {
        read_with_sizes(
            R"({"attention_bias": true, "hidden_act": "relu", "max_position_embeddings": 10000000000,
                 "rope_theta": "many", "num_key_value_heads": 5, "pad_token_id": 64, "pad_token_id": 0})");
      },
      "config.json: 6 problems", "attention_bias", "hidden_act",
      "max_position_embeddings = 10000000000", "rope_theta = \"many\"", "num_key_value_heads = 5",
      "pad_token_id: the key is given twice");
}

TEST(Architecture, SizesAreNeverGuessed) {
  expect_error<DataError>([] { read(R"({"hidden_size": null})"); }, "5 problems",
                          "vocab_size: missing", "hidden_size: missing",
                          "intermediate_size: missing", "num_hidden_layers: missing",
                          "num_attention_heads: missing");
  EXPECT_EQ(read_with_sizes("{}").rms_norm_eps, 1e-6);  // what transformers takes
  EXPECT_EQ(read_with_sizes("{}").num_key_value_heads, 12);
}

TEST(Architecture, EveryTruncationIsAnError) {
  const std::string text = kPublished;
  for (std::size_t size = 0; size < text.size(); ++size) {
    EXPECT_THROW(read(text.substr(0, size)), DataError) << size;
  }
}

TEST(Architecture, BrokenFilesAreDataErrors) {
  expect_error<DataError>([] { read("{\n\"hidden_size\": }"); },
                          "config.json:2:", "not valid JSON");
  expect_error<DataError>([] { read("[]"); }, "config.json", "expected a JSON object");
  expect_error<DataError>([] { read(R"({"hidden_size": 1e999})"); }, "number overflow");
}

TEST(Architecture, WrittenFileReadsBack) {
  ModelConfig model;
  model.num_key_value_heads = 4;
  model.head_dim = 32;
  model.rope_theta = 123456.789;
  model.rms_norm_eps = 1e-6;
  model.tie_word_embeddings = true;
  model.eos_token_id = {2, 7};
  model.pad_token_id = 3;
  for (const Binarize binarize : {Binarize::kNone, Binarize::kRow}) {
    model.binarize = binarize;
    for (const RopeScaling& rope : {RopeScaling{}, RopeScaling{"linear", 2.5, 1, 4, 0},
                                    RopeScaling{"llama3", 8, 1.5, 3.5, 8192}}) {
      model.rope_scaling = rope;
      EXPECT_EQ(read(model_config_to_hf_json(model, "float16")), model);
    }
  }
}

TEST(Architecture, TiedScalesAndNoShiftReadBack) {
  ModelConfig model;
  resolve(model);
  EXPECT_EQ(model_config_to_hf_json(model, "float32").find("tie_scales"), std::string::npos);
  model.tie_scales = true;
  EXPECT_EQ(read(model_config_to_hf_json(model, "float32")), model);
  model.shift = false;
  EXPECT_EQ(read(model_config_to_hf_json(model, "float32")), model);
  std::string text = model_config_to_hf_json(model, "float32");
  text.replace(text.find("\"column\""), 8, "\"row\"");
  expect_error<DataError>([&] { read(text); }, "tie_scales", "shift", "binarize is row");
  model.binarize = Binarize::kNone;  // what a model folds into
  text = model_config_to_hf_json(model, "float32");
  EXPECT_EQ(text.find("tie_scales"), std::string::npos);
  EXPECT_EQ(text.find("shift"), std::string::npos);
}

TEST(Architecture, WrittenFileIsAStockLlama) {
  const ModelConfig model = read(kPublished);
  const std::string text = model_config_to_hf_json(model, "float16");
  for (const char* part :
       {"\"LlamaForCausalLM\"", "\"model_type\": \"llama\"", "\"torch_dtype\": \"float16\"",
        "\"eos_token_id\": 2,", "\"rope_scaling\": null", "\"rope_theta\": 10000.0",
        "\"head_dim\": 64", "\"hidden_act\": \"silu\"", "\"pad_token_id\": 0"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  }
  EXPECT_EQ(text.find("binarize"), std::string::npos);
  EXPECT_EQ(text.find("\"architecture\""), std::string::npos);
}

class ModelPath : public testing::Test {
 protected:
  void SetUp() override { write_file(folder_ / "arch.json", kPublished); }

  RunConfig parse_model(const std::string& model, std::vector<std::string> overrides = {}) {
    return parse_run_config(
        R"({"model": )" + model +
            R"(, "teacher": {"path": "t"}, "data": {"paths": "d"}, "train": {"steps": 2000}})",
        "run.json", folder_.path(), {.overrides = std::move(overrides)});
  }

  fbi::test::TempDir folder_;
};

TEST_F(ModelPath, IsRelativeToTheConfiguration) {
  const ModelConfig model = parse_model(R"("arch.json")").model;
  EXPECT_EQ(model.pad_token_id, 0);
  EXPECT_EQ(model.binarize, Binarize::kColumn);
  EXPECT_EQ(parse_model("\"" + (folder_ / "arch.json").string() + "\"").model, model);
}

TEST_F(ModelPath, OtherKeysGoBeforeTheFile) {
  const ModelConfig model =
      parse_model(
          R"({"architecture": "arch.json", "binarize": "row", "pad_token_id": null, "num_hidden_layers": 3})")
          .model;
  EXPECT_EQ(model.binarize, Binarize::kRow);
  EXPECT_EQ(model.pad_token_id, std::nullopt);
  EXPECT_EQ(model.num_hidden_layers, 3);
  EXPECT_EQ(model.hidden_size, 768);
}

TEST_F(ModelPath, OverridesReachIntoTheFile) {
  const ModelConfig model =
      parse_model(R"("arch.json")", {"model.binarize=none", "model.num_hidden_layers=2"}).model;
  EXPECT_EQ(model.binarize, Binarize::kNone);
  EXPECT_EQ(model.num_hidden_layers, 2);
  EXPECT_EQ(model.hidden_size, 768);
}

TEST_F(ModelPath, InAnOverrideIsRelativeToTheCurrentFolder) {
  const std::string relative = std::filesystem::relative(folder_ / "arch.json").string();
  for (const char* key : {"model", "model.architecture"}) {
    EXPECT_EQ(parse_model("{}", {std::string(key) + "=" + relative}).model.pad_token_id, 0);
  }
  expect_error<UsageError>([&] { parse_model("{}", {"model=arch.json"}); }, "model.architecture",
                           "arch.json");
}

TEST_F(ModelPath, MissingFileIsOneOfTheProblems) {
  expect_error<UsageError>([&] { parse_model(R"("absent.json")", {"optimizer.lr=-1"}); },
                           "2 problems", "model.architecture: ", "absent.json",
                           "optimizer.lr = -1");
  expect_error<UsageError>([&] { parse_model(R"({"architecture": 5})"); },
                           "model.architecture = 5: expected the path of a file");
}

TEST_F(ModelPath, ProblemsOfTheFileNameIt) {
  write_file(folder_ / "bad.json",
             R"({"mlp_bias": true, "hidden_size": -1, "vocab_size": "x", "rope_theta": 0,
                 "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1})");
  expect_error<UsageError>([&] { parse_model(R"("bad.json")", {"model.rope_theta=-2"}); },
                           "4 problems", "model.mlp_bias = true: not implemented",
                           "model.hidden_size = -1: expected an integer from 1 to 131072 (from " +
                               (folder_ / "bad.json").string() + ")",
                           "model.rope_theta = -2: expected a number > 0 (from --set)");
  write_file(folder_ / "broken.json", "{\n");
  expect_error<UsageError>([&] { parse_model(R"("broken.json")"); }, "broken.json:2:1",
                           "not valid JSON");
}

TEST(ModelSection, TakesHuggingFaceKeysButNoUnknownOnes) {
  const std::string head = R"({"model": )";
  const std::string tail =
      R"(, "teacher": {"path": "t"}, "data": {"paths": "d"}, "train": {"steps": 2000}})";
  EXPECT_EQ(parse(head + kPublished + tail).model.pad_token_id, 0);
  EXPECT_EQ(parse(head + R"({"rope_parameters": {"rope_theta": 5e5}})" + tail).model.rope_theta,
            5e5);
  expect_error<UsageError>([&] { parse(head + R"({"attention_bias": true})" + tail); },
                           "model.attention_bias = true: not implemented");
  expect_error<UsageError>([&] { parse(head + R"({"hiden_size": null})" + tail); },
                           "model.hiden_size = null: unknown key; did you mean model.hidden_size?");
  expect_error<UsageError>([&] { parse(head + R"({"rope_scaling": {"facter": 2}})" + tail); },
                           "model.rope_scaling.facter = 2: unknown key",
                           "model.rope_scaling.factor");
}

}  // namespace
}  // namespace fbi::config::test
