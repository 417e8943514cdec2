// Help and documentation that come from the field list.
#include "fbi/config/describe.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <set>

#include "fbi/config/run_config.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "support/expect_error.h"

namespace fbi::config::test {
namespace {

using fbi::test::expect_error;

TEST(Describe, PromisedNamesExist) {
  std::set<std::string> keys;
  for (const FieldInfo& field : list_fields()) keys.insert(field.key);
  for (const char* key : {"model.binarize",
                          "model.vocab_size",
                          "model.hidden_size",
                          "model.intermediate_size",
                          "model.num_hidden_layers",
                          "model.num_attention_heads",
                          "model.num_key_value_heads",
                          "model.head_dim",
                          "model.max_position_embeddings",
                          "model.rms_norm_eps",
                          "model.rope_theta",
                          "model.tie_word_embeddings",
                          "model.pad_token_id",
                          "model.bos_token_id",
                          "model.eos_token_id",
                          "model.initializer_range",
                          "teacher.path",
                          "teacher.dtype",
                          "data.format",
                          "data.paths",
                          "data.skip_files",
                          "data.seed",
                          "data.index_dir",
                          "objective.next_token",
                          "objective.distill",
                          "objective.temperature",
                          "optimizer.lr",
                          "optimizer.end_lr",
                          "optimizer.beta1",
                          "optimizer.beta2",
                          "optimizer.eps",
                          "optimizer.weight_decay",
                          "optimizer.clip_norm",
                          "optimizer.schedule",
                          "optimizer.warmup_steps",
                          "optimizer.total_steps",
                          "optimizer.decay_steps",
                          "optimizer.groups.latent.lr",
                          "optimizer.groups.latent.weight_decay",
                          "optimizer.groups.scale.lr",
                          "optimizer.groups.scale.weight_decay",
                          "optimizer.groups.norm.lr",
                          "optimizer.groups.norm.weight_decay",
                          "optimizer.groups.embedding.lr",
                          "optimizer.groups.embedding.weight_decay",
                          "train.seq_len",
                          "train.global_batch",
                          "train.micro_batch",
                          "train.steps",
                          "train.precision",
                          "train.recompute",
                          "train.seed",
                          "checkpoint.every_steps",
                          "checkpoint.every_seconds",
                          "checkpoint.keep",
                          "checkpoint.keep_every"}) {
    EXPECT_TRUE(keys.contains(key)) << key << " is a name that users rely on";
  }
}

TEST(Describe, PromisedSpellingsExist) {
  EXPECT_EQ(to_string(Binarize::kColumn), "column");
  EXPECT_EQ(to_string(Binarize::kRow), "row");
  EXPECT_EQ(to_string(Binarize::kSingle), "single");
  EXPECT_EQ(to_string(Binarize::kNone), "none");
  EXPECT_EQ(to_string(Precision::kFp32), "fp32");
  EXPECT_EQ(to_string(Precision::kBf16), "bf16");
  EXPECT_EQ(to_string(DataFormat::kAmber), "amber");
  EXPECT_EQ(to_string(DataFormat::kShards), "shards");
  EXPECT_EQ(to_string(ScheduleKind::kCosine), "cosine");
  EXPECT_EQ(to_string(ScheduleKind::kLinear), "linear");
  EXPECT_EQ(to_string(ScheduleKind::kConstant), "constant");
  EXPECT_EQ(to_string(ScheduleKind::kWsd), "wsd");
}

TEST(Describe, KeysAreUniqueAndExplained) {
  std::set<std::string> keys;
  for (const FieldInfo& field : list_fields()) {
    EXPECT_TRUE(keys.insert(field.key).second) << field.key;
    EXPECT_FALSE(field.help.empty()) << field.key;
    EXPECT_FALSE(field.default_value.empty()) << field.key;
    EXPECT_NE(help_text().find(field.key), std::string::npos);
  }
}

TEST(Describe, ExplainsAField) {
  const std::string text = explain("optimizer.beta1");
  for (const char* part :
       {"optimizer.beta1", "first moment", "number", "0.9", ">= 0 and < 1", "fixed"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  }
  EXPECT_NE(explain("train.micro_batch").find("may change"), std::string::npos);
  EXPECT_NE(explain("model.binarize").find("column | row | single | none"), std::string::npos);
  EXPECT_NE(explain("train.steps").find("required"), std::string::npos);
}

TEST(Describe, ExplainsASection) {
  EXPECT_NE(explain("optimizer").find("optimizer.groups.norm.lr"), std::string::npos);
  EXPECT_EQ(explain("optimizer").find("train.seq_len"), std::string::npos);
  EXPECT_NE(explain("optimizer.groups.latent").find("optimizer.groups.latent.lr"),
            std::string::npos);
}

TEST(Describe, UnknownKeysGetTheNearest) {
  expect_error<UsageError>([] { (void)explain("optimizer.lrr"); }, "optimizer.lrr",
                           "did you mean optimizer.lr?");
  expect_error<UsageError>([] { (void)explain("qqqqqqqq"); }, "qqqqqqqq");
}

TEST(Docs, ConfigurationPageIsWhatTheFieldListSays) {
  const std::filesystem::path page = std::filesystem::path(FBI_SOURCE_DIR) / "docs" / "config.md";
  if (std::getenv("FBI_UPDATE_DOCS")) write_file(page, markdown_reference());
  EXPECT_EQ(read_file(page), markdown_reference())
      << "docs/config.md is out of date; write it anew with\n"
         "  FBI_UPDATE_DOCS=1 config_test --gtest_filter='Docs.*'";
}

}  // namespace
}  // namespace fbi::config::test
