// Writing, comparing and hashing, over every field there is.
#include "fbi/config/compare.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "config/sample_config.h"
#include "fbi/config/describe.h"

namespace fbi::config::test {
namespace {

// A legal value other than the default for each field.
const std::map<std::string, std::string> kOtherValues = {
    {"model.vocab_size", "31999"},
    {"model.hidden_size", "384"},
    {"model.intermediate_size", "100"},
    {"model.num_hidden_layers", "3"},
    {"model.num_attention_heads", "24"},
    {"model.num_key_value_heads", "4"},
    {"model.head_dim", "2"},
    {"model.max_position_embeddings", "4096"},
    {"model.rms_norm_eps", "1.1e-6"},
    {"model.rope_theta", "500000.1"},
    {"model.rope_scaling.rope_type", "linear"},
    {"model.rope_scaling.factor", "1.5"},
    {"model.rope_scaling.low_freq_factor", "1.25"},
    {"model.rope_scaling.high_freq_factor", "3.3"},
    {"model.rope_scaling.original_max_position_embeddings", "8192"},
    {"model.initializer_range", "0.01"},
    {"model.tie_word_embeddings", "true"},
    {"model.pad_token_id", "0"},
    {"model.bos_token_id", "3"},
    {"model.eos_token_id", "[2,4]"},
    {"model.binarize", "none"},
    {"model.tie_scales", "true"},
    {"model.shift", "false"},
    {"evaluation.every_steps", "100"},
    {"evaluation.tokens", R"(["v.tokens"])"},
    {"evaluation.tasks", R"(["piqa=p.jsonl"])"},
    {"evaluation.batch", "2"},
    {"evaluation.max_windows", "7"},
    {"train.sign_products", "int8"},
    {"train.working_copy", "step"},
    {"teacher.micro_batch", "4"},
    {"teacher.path", "other"},
    {"teacher.dtype", "bf16"},
    {"data.format", "amber"},
    {"data.paths", R"(["d","e"])"},
    {"data.weights", "[0.1]"},
    {"data.skip_files", "[3]"},
    {"data.seed", "18446744073709551615"},
    {"data.index_dir", "index"},
    {"objective.next_token", "0.1"},
    {"objective.distill", "0.9"},
    {"objective.temperature", "2"},
    {"optimizer.lr", "0.00020000000000000001"},
    {"optimizer.end_lr", "1e-6"},
    {"optimizer.beta1", "0.8"},
    {"optimizer.beta2", "0.99"},
    {"optimizer.eps", "1e-6"},
    {"optimizer.weight_decay", "0.3"},
    {"optimizer.clip_norm", "0.7"},
    {"optimizer.schedule", "linear"},
    {"optimizer.warmup_steps", "11"},
    {"optimizer.total_steps", "3001"},
    {"optimizer.decay_steps", "7"},
    {"optimizer.schedule_micro_steps", "3"},
    {"optimizer.groups.latent.lr", "0.5"},
    {"optimizer.groups.latent.weight_decay", "0.5"},
    {"optimizer.groups.scale.lr", "0.5"},
    {"optimizer.groups.scale.weight_decay", "0"},
    {"optimizer.groups.norm.lr", "0.5"},
    {"optimizer.groups.norm.weight_decay", "0"},
    {"optimizer.groups.embedding.lr", "0.5"},
    {"optimizer.groups.embedding.weight_decay", "0"},
    {"train.seq_len", "1024"},
    {"train.global_batch", "512"},
    {"train.micro_batch", "16"},
    {"train.steps", "4000"},
    {"train.precision", "bf16"},
    {"train.recompute", "true"},
    {"train.seed", "9007199254740993"},
    {"train.init_from", "start"},
    {"train.loss_chunk_tokens", "512"},
    {"train.max_skipped_in_row", "3"},
    {"train.sign_products", "dense"},
    {"train.device", "cpu"},
    {"train.threads", "2"},
    {"parallel.backend", "gloo"},
    {"parallel.gradient_dtype", "bf16"},
    {"parallel.shard_gradients", "true"},
    {"parallel.shard_teacher", "true"},
    {"parallel.timeout_seconds", "30.5"},
    {"checkpoint.every_steps", "7"},
    {"checkpoint.every_seconds", "600.5"},
    {"checkpoint.at_end", "false"},
    {"checkpoint.keep", "5"},
    {"checkpoint.keep_every", "2000"},
    {"log.every_steps", "1"},
};

const std::set<std::string> kFree = {"data.index_dir",
                                     "teacher.micro_batch",
                                     "train.working_copy",
                                     "train.micro_batch",
                                     "train.steps",
                                     "train.recompute",
                                     "train.max_skipped_in_row",
                                     "train.device",
                                     "train.threads",
                                     "parallel.backend",
                                     "parallel.gradient_dtype",
                                     "parallel.shard_gradients",
                                     "parallel.shard_teacher",
                                     "parallel.timeout_seconds",
                                     "checkpoint.every_steps",
                                     "checkpoint.every_seconds",
                                     "checkpoint.at_end",
                                     "checkpoint.keep",
                                     "checkpoint.keep_every",
                                     "log.every_steps",
                                     "evaluation.every_steps",
                                     "evaluation.tokens",
                                     "evaluation.tasks",
                                     "evaluation.batch",
                                     "evaluation.max_windows"};

// Derived values fixed, so that one field can change alone.
RunConfig base(std::vector<std::string> overrides = {}) {
  std::vector<std::string> all = {"optimizer.total_steps=3000", "optimizer.schedule_micro_steps=8",
                                  "model.head_dim=64", "model.num_key_value_heads=12"};
  all.insert(all.end(), overrides.begin(), overrides.end());
  return minimal(all);
}

TEST(Compare, EveryFieldIsWrittenReadComparedAndHashed) {
  std::size_t seen = 0;
  for (const FieldInfo& field : list_fields()) {
    if (field.key == "model.architecture") continue;
    SCOPED_TRACE(field.key);
    ASSERT_TRUE(kOtherValues.contains(field.key)) << "give this test another value of the field";
    ++seen;
    std::vector<std::string> overrides;
    if (field.key == "optimizer.decay_steps")  // legal with this schedule alone
      overrides = {"optimizer.schedule=wsd", "optimizer.decay_steps=5"};
    const RunConfig first = base(overrides);
    overrides.push_back(field.key + "=" + kOtherValues.at(field.key));
    const RunConfig second = base(overrides);
    EXPECT_NE(to_json(second), to_json(first));
    EXPECT_EQ(to_json(parse(to_json(second))), to_json(second));
    const auto differences = identity_differences(first, second);
    EXPECT_EQ(field.identity, !kFree.contains(field.key));
    ASSERT_EQ(differences.size(), field.identity ? 1u : 0u);
    if (field.identity) {
      EXPECT_EQ(differences.front().key, field.key);
      EXPECT_NE(differences.front().saved, differences.front().current);
    }
    EXPECT_EQ(identity_hash(first) != identity_hash(second), field.identity);
  }
  EXPECT_EQ(seen, kOtherValues.size());
}

TEST(Compare, NumbersRoundTripBitForBit) {
  RunConfig config = base();
  config.optimizer.lr = 0.1 + 0.2;
  config.optimizer.eps = 0x1.123456789abcdp-100;
  config.optimizer.weight_decay = 1.7976931348623157e308;
  config.model.rope_theta = 1.0 / 3.0;
  const RunConfig back = parse(to_json(config));
  EXPECT_EQ(back.optimizer.lr, config.optimizer.lr);
  EXPECT_EQ(back.optimizer.eps, config.optimizer.eps);
  EXPECT_EQ(back.optimizer.weight_decay, config.optimizer.weight_decay);
  EXPECT_EQ(back.model.rope_theta, config.model.rope_theta);
}

TEST(Compare, DifferencesCarryBothValues) {
  const auto differences = identity_differences(
      base(), base({"optimizer.lr=2e-4", "model.binarize=row", "train.threads=3"}));
  ASSERT_EQ(differences.size(), 2u);
  EXPECT_EQ(differences[0].key, "model.binarize");
  EXPECT_EQ(differences[0].saved, "\"column\"");
  EXPECT_EQ(differences[0].current, "\"row\"");
  EXPECT_EQ(differences[1].key, "optimizer.lr");
  EXPECT_EQ(differences[1].saved, "0.0003");
  EXPECT_EQ(differences[1].current, "0.0002");
}

TEST(Compare, LongerRunIsTheSameRunOnlyWithAScheduleOfItsOwn) {
  EXPECT_TRUE(identity_differences(base(), base({"train.steps=9000"})).empty());
  const auto differences = identity_differences(minimal(), minimal({"train.steps=9000"}));
  ASSERT_EQ(differences.size(), 1u);
  EXPECT_EQ(differences.front().key, "optimizer.total_steps");
}

TEST(Compare, OfAConstantScheduleTheEndIsNoDifference) {
  const auto constant = [](std::vector<std::string> changes) {
    changes.emplace_back("optimizer.schedule=constant");
    return minimal(std::move(changes));
  };
  const auto keys = [](const RunConfig& saved, const RunConfig& current) {
    std::vector<std::string> found;
    for (const auto& difference : identity_differences(saved, current))
      found.push_back(difference.key);
    return found;
  };
  const RunConfig saved = constant({}), longer = constant({"train.steps=9000"});
  ASSERT_NE(saved.optimizer.total_steps, longer.optimizer.total_steps);
  EXPECT_TRUE(keys(saved, longer).empty());
  EXPECT_EQ(identity_hash(saved), identity_hash(longer));
  EXPECT_TRUE(keys(saved, constant({"optimizer.end_lr=1e-6"})).empty());
  // Whoever changes the schedule need not allow its length besides.
  const RunConfig cosine = minimal({"train.steps=8000"});
  for (const auto& found : {keys(saved, cosine), keys(cosine, saved)})
    EXPECT_EQ(found, std::vector<std::string>{"optimizer.schedule"});
}

TEST(Compare, HashIsThirtyTwoHexadecimalDigits) {
  const std::string hash = identity_hash(base());
  EXPECT_EQ(hash.size(), 32u);
  EXPECT_EQ(hash.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_EQ(hash, identity_hash(base({"train.micro_batch=16"})));
}

// As computed when there was one schedule, and no field for it.
TEST(Compare, HashOfEarlierRunsStays) {
  EXPECT_EQ(identity_hash(minimal()), "1aea92212291141cff0646d20516f1f9");
  EXPECT_EQ(identity_hash(minimal({"model.tie_scales=true", "train.sign_products=int8"})),
            "0efd86e48615b64f2c0a831a58743b20");
}

}  // namespace
}  // namespace fbi::config::test
