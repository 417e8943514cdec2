#include "fbi/config/model_tensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "config/small_model.h"
#include "fbi/config/model_size.h"

namespace fbi::config {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Role = TensorSpec::Role;

std::map<std::string, TensorSpec> by_name(const ModelConfig& model) {
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
  EXPECT_THAT(by_name(small_model(Binarize::kColumn)).at(scale).shape, ElementsAre(1, 20));
  EXPECT_THAT(by_name(small_model(Binarize::kRow)).at(shift).shape, ElementsAre(12, 1));
  EXPECT_THAT(by_name(small_model(Binarize::kSingle)).at(scale).shape, IsEmpty());
  EXPECT_FALSE(by_name(small_model(Binarize::kNone)).contains(scale));
  ModelConfig no_shift = small_model();
  no_shift.shift = false;
  EXPECT_FALSE(by_name(no_shift).contains(shift));
  EXPECT_TRUE(by_name(no_shift).contains(scale));
}

TEST(ModelTensorsTest, CountsAgreeWithTheConfiguration) {
  for (const auto binarize :
       {Binarize::kColumn, Binarize::kRow, Binarize::kSingle, Binarize::kNone}) {
    for (const bool tied : {false, true}) {
      ModelConfig model = small_model(binarize);
      model.tie_word_embeddings = tied;
      ModelSize size;
      for (const auto& [name, tensor] : by_name(model)) {
        (tensor.role == Role::kLatent  ? size.binarized
         : tensor.role == Role::kDense ? size.dense
                                       : size.scales) += tensor.numel();
      }
      const ModelSize expected = parameter_counts(model);
      EXPECT_EQ(size.binarized, expected.binarized);
      EXPECT_EQ(size.scales, expected.scales);
      EXPECT_EQ(size.dense, expected.dense);
    }
  }
}

TEST(ModelTensorsTest, UnresolvedSizesAreResolved) {
  ModelConfig model = small_model();
  model.num_key_value_heads = 0;
  model.head_dim = 0;
  EXPECT_THAT(by_name(model).at("model.layers.0.self_attn.k_proj.weight").shape,
              ElementsAre(12, 12));
}

}  // namespace
}  // namespace fbi::config
