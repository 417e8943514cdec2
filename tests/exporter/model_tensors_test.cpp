#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "exporter/memory_source.h"
#include "fbi/config/model_size.h"
#include "support/expect_error.h"

namespace fbi::exporter {
namespace {

using ::fbi::test::expect_error;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Role = TensorSpec::Role;

std::map<std::string, TensorSpec> by_name(const config::ModelConfig& model) {
  std::map<std::string, TensorSpec> result;
  for (const TensorSpec& tensor : model_tensors(model)) {
    EXPECT_TRUE(result.emplace(tensor.name, tensor).second) << tensor.name;
  }
  return result;
}

TEST(ModelTensorsTest, PublishedNamesAndShapes) {
  const auto tensors = by_name(small_model());
  EXPECT_THAT(tensors.at("model.embed_tokens.weight").shape, ElementsAre(29, 12));
  EXPECT_THAT(tensors.at("lm_head.weight").shape, ElementsAre(29, 12));
  EXPECT_THAT(tensors.at("model.norm.weight").shape, ElementsAre(12));
  const std::string layer = "model.layers.1.";
  EXPECT_THAT(tensors.at(layer + "input_layernorm.weight").shape, ElementsAre(12));
  EXPECT_THAT(tensors.at(layer + "post_attention_layernorm.weight").shape, ElementsAre(12));
  EXPECT_THAT(tensors.at(layer + "self_attn.q_proj.weight").shape, ElementsAre(16, 12));
  EXPECT_THAT(tensors.at(layer + "self_attn.k_proj.weight").shape, ElementsAre(8, 12));
  EXPECT_THAT(tensors.at(layer + "self_attn.v_proj.weight").shape, ElementsAre(8, 12));
  EXPECT_THAT(tensors.at(layer + "self_attn.o_proj.weight").shape, ElementsAre(12, 16));
  EXPECT_THAT(tensors.at(layer + "mlp.gate_proj.weight").shape, ElementsAre(20, 12));
  EXPECT_THAT(tensors.at(layer + "mlp.up_proj.weight").shape, ElementsAre(20, 12));
  EXPECT_THAT(tensors.at(layer + "mlp.down_proj.weight").shape, ElementsAre(12, 20));
  EXPECT_EQ(tensors.size(), 3u + 2 * (2 + 7 * 3));
  EXPECT_EQ(tensors.at(layer + "mlp.down_proj.weight").role, Role::kLatent);
  EXPECT_EQ(tensors.at(layer + "mlp.down_proj.wscale").role, Role::kScale);
  EXPECT_EQ(tensors.at(layer + "mlp.down_proj.wbias").role, Role::kShift);
  EXPECT_EQ(tensors.at("lm_head.weight").role, Role::kDense);
}

TEST(ModelTensorsTest, ShapeOfScalesFollowsThePattern) {
  const std::string scale = "model.layers.0.mlp.down_proj.wscale";
  const std::string shift = "model.layers.0.mlp.down_proj.wbias";
  EXPECT_THAT(by_name(small_model(config::Binarize::kColumn)).at(scale).shape, ElementsAre(1, 20));
  EXPECT_THAT(by_name(small_model(config::Binarize::kRow)).at(shift).shape, ElementsAre(12, 1));
  EXPECT_THAT(by_name(small_model(config::Binarize::kSingle)).at(scale).shape, IsEmpty());
  EXPECT_FALSE(by_name(small_model(config::Binarize::kNone)).contains(scale));
  config::ModelConfig no_shift = small_model();
  no_shift.shift = false;
  EXPECT_FALSE(by_name(no_shift).contains(shift));
  EXPECT_TRUE(by_name(no_shift).contains(scale));
}

TEST(ModelTensorsTest, CountsAgreeWithTheConfiguration) {
  for (const auto binarize : {config::Binarize::kColumn, config::Binarize::kRow,
                              config::Binarize::kSingle, config::Binarize::kNone}) {
    for (const bool tied : {false, true}) {
      config::ModelConfig model = small_model(binarize);
      model.tie_word_embeddings = tied;
      config::ModelSize size;
      for (const auto& [name, tensor] : by_name(model)) {
        (tensor.role == Role::kLatent  ? size.binarized
         : tensor.role == Role::kDense ? size.dense
                                       : size.scales) += tensor.numel();
      }
      const config::ModelSize expected = config::parameter_counts(model);
      EXPECT_EQ(size.binarized, expected.binarized);
      EXPECT_EQ(size.scales, expected.scales);
      EXPECT_EQ(size.dense, expected.dense);
    }
  }
}

TEST(ModelTensorsTest, UnresolvedSizesAreResolved) {
  config::ModelConfig model = small_model();
  model.num_key_value_heads = 0;
  model.head_dim = 0;
  EXPECT_THAT(by_name(model).at("model.layers.0.self_attn.k_proj.weight").shape,
              ElementsAre(12, 12));
}

TEST(CheckTensorsTest, AcceptsWhatFits) {
  MemorySource source(small_model());
  check_tensors(source, small_model());
  source.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {{2}, {1, 1}};
  check_tensors(source, small_model());
}

TEST(CheckTensorsTest, ARepeatedTiedHeadIsPassedOver) {
  MemorySource source(small_model());
  config::ModelConfig tied = small_model();
  tied.tie_word_embeddings = true;
  check_tensors(source, tied);
}

TEST(CheckTensorsTest, AllProblemsComeTogether) {
  MemorySource source(small_model());
  source.tensors.erase("model.norm.weight");
  source.tensors["model.layers.1.mlp.up_proj.weight"].shape = {20, 13};
  source.tensors["model.layers.2.input_layernorm.weight"] = {{12}, std::vector<float>(12)};
  expect_error<DataError>([&] { check_tensors(source, small_model()); }, "in MEMORY",
                          "missing: model.norm.weight [12]",
                          "model.layers.1.mlp.up_proj.weight: expected [20, 12], found [20, 13]",
                          "not used by this architecture: model.layers.2.input_layernorm.weight");
}

TEST(CheckTensorsTest, TiedScalesAreEqual) {
  config::ModelConfig model = tied_model();
  MemorySource source(model);
  check_tensors(source, model);
  source.values("model.layers.1.mlp.up_proj.wscale")[5] += 1e-6f;
  expect_error<DataError>([&] { check_tensors(source, model); },
                          "model.layers.1.mlp.up_proj.wscale in MEMORY differs from "
                          "model.layers.1.mlp.gate_proj.wscale");
  model.tie_scales = false;
  check_tensors(source, model);
  model.shift = true;
  expect_error<DataError>([&] { check_tensors(source, model); },
                          "missing: model.layers.0.mlp.down_proj.wbias");
}

TEST(CheckTensorsTest, ScalesOfAnotherPattern) {
  MemorySource source(small_model(config::Binarize::kColumn));
  expect_error<DataError>([&] { check_tensors(source, small_model(config::Binarize::kRow)); },
                          "q_proj.wscale: expected [16, 1], found [1, 12]");
  expect_error<DataError>([&] { check_tensors(source, small_model(config::Binarize::kNone)); },
                          "not used by this architecture: model.layers.0.mlp.down_proj.wbias");
}

}  // namespace
}  // namespace fbi::exporter
