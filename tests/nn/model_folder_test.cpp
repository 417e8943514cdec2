#include "fbi/nn/model_folder.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "distributed/ranks.h"
#include "fbi/checkpoint/commit.h"
#include "fbi/config/compare.h"
#include "fbi/config/load.h"
#include "fbi/core/error.h"
#include "fbi/distributed/shard_plan.h"
#include "nn/write_model_folder.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi::nn {
namespace {

namespace fs = std::filesystem;

config::ModelConfig tiny_model(config::Binarize binarize) {
  config::ModelConfig model;
  model.vocab_size = 23;
  model.hidden_size = 16;
  model.intermediate_size = 20;
  model.num_hidden_layers = 2;
  model.num_attention_heads = 4;
  model.num_key_value_heads = 2;
  model.max_position_embeddings = 16;
  model.binarize = binarize;
  config::resolve(model);
  return model;
}

at::Tensor hidden_of(LlamaForCausalLM& model) {
  return model.hidden_states(at::ones({1, 5}, at::kLong));
}

at::Tensor hidden_of(const fs::path& path, const std::string& dtype = "fp32") {
  return hidden_of(
      *load_for_evaluation(open_model_folder(path), evaluation_dtype(dtype, at::kCPU), at::kCPU));
}

at::Tensor hidden_of_random(const config::ModelConfig& config, std::uint64_t seed) {
  LlamaForCausalLM model(config, {});
  load_weights(model, *random_weights(config, seed));
  return hidden_of(model);
}

class Folder : public ::testing::Test {
 protected:
  fs::path path() const { return folder_.path(); }
  void write(const config::ModelConfig& config, const NamedTensors& tensors) {
    write_model_folder(path(), config, tensors);
  }

  /// A committed checkpoint of a binarized model below `checkpoints`.
  fs::path write_checkpoint(const fs::path& checkpoints, std::int64_t step, std::uint64_t seed,
                            int ranks = 1) {
    config::RunConfig run;
    run.model = packed_;
    run.data.paths = {"data.tokens"};
    run.objective = {1, 0, 1};
    run.train.seq_len = 16;
    run.train.steps = 5000;
    config::resolve(run, 1);
    const NamedTensors tensors = random_model(packed_, seed);
    formats::CheckpointManifest manifest;
    manifest.step = step;
    manifest.state_json = "{\"config\": " + config::to_json(run) + "}";
    test::run_ranks_ok(ranks, [&](distributed::Communicator& communicator) {
      std::vector<checkpoint::TensorPart> parts;
      for (const auto& [name, tensor] : tensors) {
        for (const std::string& part : {name, "optimizer.exp_avg." + name}) {
          if (tensor.dim() < 2) {
            parts.push_back({part, tensor});
            continue;
          }
          const auto rows = distributed::range(tensor.size(0), communicator.rank(), ranks);
          parts.push_back(
              {part, tensor.narrow(0, rows.begin, rows.rows()), rows.begin, tensor.size(0)});
        }
      }
      checkpoint::commit_checkpoint(communicator, checkpoints, manifest, parts);
    });
    return checkpoints / formats::checkpoint_folder_name(step);
  }

  test::TempDir folder_;
  config::ModelConfig dense_ = tiny_model(config::Binarize::kNone);
  config::ModelConfig packed_ = tiny_model(config::Binarize::kColumn);
};

TEST_F(Folder, OfHuggingFaceGivesItsModel) {
  write(dense_, random_model(dense_, 1));
  const auto folder = open_model_folder(path());
  EXPECT_EQ(folder.kind, "Hugging Face folder");
  EXPECT_EQ(folder.config, dense_);
  EXPECT_EQ(folder.stored_dtype, at::kFloat);
  EXPECT_TRUE(folder.tokenizer.empty());
  EXPECT_TRUE(hidden_of(path()).equal(hidden_of_random(dense_, 1)));
}

TEST_F(Folder, InHalfPrecisionIsReadAsItIs) {
  for (const auto dtype : {at::kHalf, at::kBFloat16}) {
    auto tensors = random_model(dense_, 1);
    for (auto& [name, tensor] : tensors) tensor = tensor.to(dtype);
    write(dense_, tensors);
    EXPECT_EQ(open_model_folder(path()).stored_dtype, dtype);
    auto expected = LlamaForCausalLM(dense_, {});
    load_weights(expected, *random_weights(dense_, 1));
    expected.round_weights(dtype);
    EXPECT_TRUE(hidden_of(path()).equal(hidden_of(expected)));
  }
}

TEST_F(Folder, OfANativeExportHasItsScalePattern) {
  for (const auto binarize :
       {config::Binarize::kColumn, config::Binarize::kRow, config::Binarize::kSingle}) {
    const auto config = tiny_model(binarize);
    write(config, random_model(config, 2));
    const auto folder = open_model_folder(path());
    EXPECT_EQ(folder.kind, "native export");
    EXPECT_EQ(folder.config, config);
    EXPECT_TRUE(hidden_of(path()).equal(hidden_of_random(config, 2)));
  }
}

TEST_F(Folder, OfACheckpointGivesTheModelOfItsRun) {
  const fs::path checkpoint = write_checkpoint(path() / "checkpoints", 7, 3);
  const auto folder = open_model_folder(checkpoint);
  EXPECT_EQ(folder.kind, "checkpoint");
  EXPECT_EQ(folder.config, packed_);
  EXPECT_TRUE(hidden_of(checkpoint).equal(hidden_of_random(packed_, 3)));
}

TEST_F(Folder, OfACheckpointThatSeveralRanksWrote) {
  for (const int ranks : {2, 3}) {
    const fs::path checkpoint = write_checkpoint(path() / "checkpoints", ranks, 3, ranks);
    EXPECT_TRUE(fs::exists(checkpoint / "shard-r00001-00000.safetensors"));
    EXPECT_TRUE(hidden_of(checkpoint).equal(hidden_of_random(packed_, 3))) << ranks;
  }
}

TEST_F(Folder, OfARunGivesItsNewestCheckpoint) {
  write_checkpoint(path() / "checkpoints", 7, 3);
  write_checkpoint(path() / "checkpoints", 12, 4);
  test::write_text(path() / "config.json", "{}");
  test::write_text(path() / "tokenizer.model", "tokenizer");
  const auto folder = open_model_folder(path());
  EXPECT_EQ(folder.path, path() / "checkpoints" / "step-00000012");
  EXPECT_EQ(folder.tokenizer, path() / "tokenizer.model");
  EXPECT_TRUE(hidden_of(path()).equal(hidden_of_random(packed_, 4)));
}

TEST_F(Folder, OfACheckpointHasTheTokenizerOfItsRun) {
  const fs::path checkpoint = write_checkpoint(path() / "checkpoints", 7, 3);
  EXPECT_TRUE(find_tokenizer(checkpoint).empty());
  test::write_text(path() / "tokenizer.model", "tokenizer");
  for (const fs::path& form : {checkpoint, checkpoint / "", checkpoint / "."}) {
    EXPECT_TRUE(fs::equivalent(find_tokenizer(form), path() / "tokenizer.model")) << form;
    EXPECT_EQ(open_model_folder(form).tokenizer, find_tokenizer(form));
  }
}

TEST_F(Folder, WithoutAModelIsRefused) {
  const auto open = [&] { open_model_folder(path()); };
  test::expect_error<DataError>(open, path().string() + " holds no model");
  test::expect_error<DataError>([&] { open_model_folder(path() / "absent"); },
                                "absent is not a folder");
  test::write_text(path() / "pytorch_model-00002-of-00002.bin", "");
  test::write_text(path() / "pytorch_model-00001-of-00002.bin", "");
  test::expect_error<DataError>(open, path().string() + " holds no model: there is ",
                                "pytorch_model-00001-of-00002.bin, but config.json is missing");
  fs::create_directory(path() / "checkpoints");
  test::expect_error<CheckpointError>(open, path().string() + ": the run has no checkpoint yet");
}

TEST_F(Folder, WithSignBitsThatAreNoneIsRefused) {
  auto tensors = random_model(packed_, 1);
  tensors["model.layers.0.self_attn.q_proj.weight_bits"] =
      tensors.at("model.layers.0.self_attn.q_proj.weight");
  tensors.erase("model.layers.0.self_attn.q_proj.weight");
  write(packed_, tensors);
  test::expect_error<DataError>([&] { open_model_folder(path()); },
                                "model.layers.0.self_attn.q_proj.weight_bits in " +
                                    path().string() + ": expected U8, found F32");
}

TEST_F(Folder, WithSignBitsBesideTheWeightsIsRefused) {
  auto tensors = random_model(packed_, 1);
  tensors["model.layers.0.self_attn.q_proj.weight_bits"] =
      tensors.at("model.layers.0.self_attn.q_proj.weight");
  write(packed_, tensors);
  test::expect_error<DataError>(
      [&] { open_model_folder(path()); },
      "not used by this architecture: model.layers.0.self_attn.q_proj.weight_bits");
}

TEST_F(Folder, ThatCouldBeANameOfTheHubSaysHowToFetchIt) {
  test::expect_error<DataError>([&] { open_model_folder("some-org/some-model"); },
                                "some-org/some-model is not a folder",
                                "hf download some-org/some-model --local-dir some-org/some-model");
}

TEST_F(Folder, WithOtherTensorsThanItsArchitectureNamesThemAll) {
  auto tensors = random_model(dense_, 1);
  tensors.erase("model.norm.weight");
  tensors.erase("model.layers.1.mlp.up_proj.weight");
  tensors["model.layers.2.mlp.up_proj.weight"] = at::zeros({20, 16});
  write(dense_, tensors);
  test::expect_error<DataError>(
      [&] { hidden_of(path()); }, path().string(), "missing: model.norm.weight",
      "missing: model.layers.1.mlp.up_proj.weight",
      "not used by this architecture: model.layers.2.mlp.up_proj.weight", "config.json");
}

TEST_F(Folder, WithATensorOfAnotherShapeIsRefused) {
  auto tensors = random_model(dense_, 1);
  tensors["model.layers.1.self_attn.k_proj.weight"] = at::zeros({16, 16});
  write(dense_, tensors);
  test::expect_error<DataError>(
      [&] { open_model_folder(path()); }, "tensors in " + path().string() + " do not fit the model",
      "model.layers.1.self_attn.k_proj.weight: expected [8, 16], found [16, 16]", "config.json");
}

TEST_F(Folder, WithSizesThatItsTensorsDoNotHaveTakesNoMemory) {
  const auto tensors = random_model(dense_, 1);
  dense_.vocab_size = 16'000'000;
  dense_.hidden_size = 65536;
  write(dense_, tensors);
  test::expect_error<DataError>(
      [&] { open_model_folder(path()); }, path().string(),
      "model.embed_tokens.weight: expected [16000000, 65536], found [23, 16]");
  dense_ = tiny_model(config::Binarize::kNone);
  dense_.num_hidden_layers = 4096;
  write(dense_, tensors);
  test::expect_error<DataError>([&] { open_model_folder(path()); }, path().string(),
                                "missing: model.layers.2.input_layernorm.weight [16]");
}

TEST_F(Folder, WithHalfTheScalesIsRefused) {
  auto tensors = random_model(packed_, 1);
  tensors.erase("model.layers.0.mlp.down_proj.wbias");
  write(packed_, tensors);
  test::expect_error<DataError>([&] { hidden_of(path()); },
                                "missing: model.layers.0.mlp.down_proj.wbias");
}

TEST_F(Folder, WithTiedScalesAndNoShift) {
  packed_.tie_scales = true;
  packed_.shift = false;
  auto tensors = random_model(packed_, 1);
  EXPECT_FALSE(tensors.contains("model.layers.0.mlp.down_proj.wbias"));
  write(packed_, tensors);
  const auto folder = open_model_folder(path());
  EXPECT_TRUE(folder.config.tie_scales);
  EXPECT_FALSE(folder.config.shift);
  EXPECT_TRUE(hidden_of(path()).equal(hidden_of_random(packed_, 1)));
  tensors.at("model.layers.1.self_attn.v_proj.wscale")[0][3] += 1e-6;
  write(packed_, tensors);
  test::expect_error<DataError>([&] { hidden_of(path()); },
                                "model.layers.1.self_attn.v_proj.wscale", path().string(),
                                "tie_scales is true");
  packed_.shift = true;
  write(packed_, tensors);
  test::expect_error<DataError>([&] { hidden_of(path()); },
                                "missing: model.layers.0.mlp.down_proj.wbias");
}

TEST_F(Folder, MayRepeatATiedHeadAndHoldRotaryFrequencies) {
  dense_.tie_word_embeddings = true;
  auto tensors = random_model(dense_, 1);
  tensors["lm_head.weight"] = tensors.at("model.embed_tokens.weight").clone();
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = at::zeros({2});
  write(dense_, tensors);
  EXPECT_TRUE(hidden_of(path()).equal(hidden_of_random(dense_, 1)));
}

TEST_F(Folder, OfADenseModelStartsABinarizedOne) {
  write(dense_, random_model(dense_, 1));
  LlamaForCausalLM binarized(packed_, {});
  const auto report = load_weights(binarized, *open_model_folder(path()).weights);
  EXPECT_EQ(report.zero_signs, 0);
  EXPECT_TRUE(hidden_of(binarized).equal(hidden_of_random(packed_, 1)));
}

TEST_F(Folder, WithZeroLatentWeightsIsCounted) {
  auto tensors = random_model(packed_, 1);
  tensors.at("model.layers.0.mlp.down_proj.weight").select(0, 3).zero_();
  write(packed_, tensors);
  LlamaForCausalLM model(packed_, {});
  EXPECT_EQ(load_weights(model, *open_model_folder(path()).weights).zero_signs, 20);
}

TEST(EvaluationDtype, HasThreeNames) {
  EXPECT_EQ(evaluation_dtype("fp32", at::kCPU).description, "fp32");
  const auto bf16 = evaluation_dtype("bf16", at::kCPU);
  EXPECT_EQ(bf16.weights, at::kBFloat16);
  EXPECT_EQ(bf16.compute, at::kBFloat16);
  const auto fp16 = evaluation_dtype("fp16", at::kCPU);
  EXPECT_EQ(fp16.weights, at::kHalf);
  EXPECT_EQ(fp16.compute, at::kFloat);
  EXPECT_EQ(fp16.description, "fp16 weights, fp32 arithmetic");
  EXPECT_EQ(evaluation_dtype("fp16", at::kCUDA).compute, at::kHalf);
  test::expect_error<UsageError>([] { evaluation_dtype("int8", at::kCPU); },
                                 "dtype 'int8' is unknown", "fp32, bf16 or fp16");
}

TEST(RandomWeights, DependOnSeedAndNameAlone) {
  const auto config = tiny_model(config::Binarize::kNone);
  const auto one = random_weights(config, 1), other = random_weights(config, 2);
  const std::string up = "model.layers.0.mlp.up_proj.weight";
  const std::vector<std::int64_t> shape{20, 16};
  const at::Tensor value = read_tensor(*one, up, shape);
  EXPECT_TRUE(value.equal(read_tensor(*random_weights(config, 1), up, shape)));
  EXPECT_FALSE(value.equal(read_tensor(*one, "model.layers.0.mlp.gate_proj.weight", shape)));
  EXPECT_FALSE(value.equal(read_tensor(*other, up, shape)));
  EXPECT_TRUE(read_tensor(*one, "model.norm.weight", {16}).equal(at::ones({16})));
  test::expect_error<DataError>(
      [&] {
        read_tensor(*one, up, {16, 20});
      },
      up, "expected [16, 20], found [20, 16]", "random weights, seed 1");
  test::expect_error<DataError>([&] { read_tensor(*one, "x", shape); }, "no tensor x");
}

TEST(RandomWeights, GiveThePaddingTokenZeros) {
  auto config = tiny_model(config::Binarize::kNone);
  config.pad_token_id = 5;
  const at::Tensor embedding =
      read_tensor(*random_weights(config, 1), "model.embed_tokens.weight", {23, 16});
  const at::Tensor is_zero = embedding.eq(0).all(1);
  EXPECT_EQ(is_zero.sum().item<std::int64_t>(), 1);
  EXPECT_TRUE(is_zero[5].item<bool>());
}

}  // namespace
}  // namespace fbi::nn
