#include "fbi/formats/model_source.h"

#include <gtest/gtest.h>

#include <vector>

#include "config/small_model.h"
#include "formats/memory_source.h"
#include "support/expect_error.h"

namespace fbi::formats {
namespace {

using config::Binarize;
using config::small_model;
using test::expect_error;

void check(const MemorySource& source, const config::ModelConfig& model) {
  check_tensors(source, model, Scales::kRequired);
}

TEST(CheckTensorsTest, AcceptsWhatFits) {
  MemorySource source(small_model());
  check(source, small_model());
  source.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {{2}, {1, 1}};
  check(source, small_model());
}

TEST(CheckTensorsTest, ARepeatedTiedHeadIsPassedOver) {
  MemorySource source(small_model());
  config::ModelConfig tied = small_model();
  tied.tie_word_embeddings = true;
  check(source, tied);
}

TEST(CheckTensorsTest, AllProblemsComeTogether) {
  MemorySource source(small_model());
  source.tensors.erase("model.norm.weight");
  source.tensors["model.layers.1.mlp.up_proj.weight"].shape = {20, 13};
  source.tensors["model.layers.2.input_layernorm.weight"] = {{12}, std::vector<float>(12)};
  expect_error<DataError>([&] { check(source, small_model()); }, "in MEMORY",
                          "missing: model.norm.weight [12]",
                          "model.layers.1.mlp.up_proj.weight: expected [20, 12], found [20, 13]",
                          "not used by this architecture: model.layers.2.input_layernorm.weight");
}

TEST(CheckTensorsTest, OfManyProblemsTheFirstOfEachKind) {
  const MemorySource source(small_model(Binarize::kNone));
  config::ModelConfig model = small_model(Binarize::kNone);
  model.num_hidden_layers = 4096;
  model.tie_word_embeddings = true;
  expect_error<DataError>(
      [&] { check(source, model); }, "missing: model.layers.2.input_layernorm.weight [12]",
      "missing: model.layers.4.self_attn.q_proj.weight [16, 12]\n  and 36826 more",
      "Check the model's config.json");
  model.num_hidden_layers = 1;
  expect_error<DataError>([&] { check(source, model); },
                          "not used by this architecture: model.layers.1.input_layernorm.weight");
}

TEST(CheckTensorsTest, ScalesOfAnotherPattern) {
  const MemorySource source(small_model(Binarize::kColumn));
  expect_error<DataError>([&] { check(source, small_model(Binarize::kRow)); },
                          "q_proj.wscale: expected [16, 1], found [1, 12]");
  expect_error<DataError>([&] { check(source, small_model(Binarize::kNone)); },
                          "not used by this architecture: model.layers.0.mlp.down_proj.wbias");
}

TEST(CheckTensorsTest, ScalesMayBeAbsentAsAWhole) {
  MemorySource source(small_model(Binarize::kNone));
  const auto start = [&] { check_tensors(source, small_model(), Scales::kOptional); };
  start();
  expect_error<DataError>([&] { check(source, small_model()); },
                          "missing: model.layers.0.self_attn.q_proj.wscale [1, 12]");
  source.tensors["model.layers.1.mlp.up_proj.wscale"] = {{1, 12}, std::vector<float>(12)};
  expect_error<DataError>(start, "missing: model.layers.0.self_attn.q_proj.wscale [1, 12]");
}

}  // namespace
}  // namespace fbi::formats
