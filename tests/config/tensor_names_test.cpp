#include "fbi/config/tensor_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fbi/config/model_size.h"
#include "fbi/core/error.h"
#include "support/expect_error.h"

namespace fbi::config {
namespace {

using ::fbi::test::expect_error;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(TensorNamesTest, OfALinearLayer) {
  const std::string up = layer_prefix(11) + std::string(decoder_linears({})[5].name);
  EXPECT_EQ(up, "model.layers.11.mlp.up_proj");
  const std::string weight = up + std::string(kLatentWeight);
  EXPECT_EQ(scale_name(weight), up + std::string(kScale));
  EXPECT_EQ(shift_name(weight), up + std::string(kShift));
}

TEST(TensorNamesTest, WhatIsPassedOver) {
  EXPECT_TRUE(is_passed_over("model.layers.0.self_attn.rotary_emb.inv_freq", false));
  EXPECT_TRUE(is_passed_over(kHead, true));
  EXPECT_FALSE(is_passed_over(kHead, false));
  EXPECT_FALSE(is_passed_over(kEmbedding, true));
}

TEST(ScaleShapeTest, FollowsTheGranularity) {
  EXPECT_THAT(scale_shape(Binarize::kColumn, {3, 5}), ElementsAre(1, 5));
  EXPECT_THAT(scale_shape(Binarize::kRow, {3, 5}), ElementsAre(3, 1));
  EXPECT_THAT(scale_shape(Binarize::kSingle, {3, 5}), IsEmpty());
  expect_error<UsageError>([] { scale_shape(Binarize::kNone, {3, 5}); }, "no scales");
}

}  // namespace
}  // namespace fbi::config
