// The configurations that come with the project.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "config/sample_config.h"
#include "fbi/config/compare.h"
#include "fbi/config/model_size.h"

namespace fbi::config::test {
namespace {

std::filesystem::path configs() {
  return std::filesystem::path(FBI_SOURCE_DIR) / "configs";
}

struct Published {
  const char* file;
  std::int64_t gpus, micro_batch, accumulate;
  std::int64_t layers, hidden, feed_forward, heads;
  std::int64_t total_steps, steps;
  std::optional<std::int64_t> pad;
};

void PrintTo(const Published& preset, std::ostream* out) {
  *out << preset.file;
}

class PublishedPresets : public testing::TestWithParam<Published> {};

TEST_P(PublishedPresets, HaveThePublishedHyperParameters) {
  const Published& preset = GetParam();
  const RunConfig config = load_run_config(configs() / preset.file, {.world_size = preset.gpus});
  const ModelConfig& model = config.model;
  EXPECT_EQ(model.num_hidden_layers, preset.layers);
  EXPECT_EQ(model.hidden_size, preset.hidden);
  EXPECT_EQ(model.intermediate_size, preset.feed_forward);
  EXPECT_EQ(model.num_attention_heads, preset.heads);
  EXPECT_EQ(model.num_key_value_heads, preset.heads);
  EXPECT_EQ(model.vocab_size, 32000);
  EXPECT_EQ(model.rms_norm_eps, 1e-5);
  EXPECT_EQ(model.rope_theta, 10000.0);
  EXPECT_EQ(model.initializer_range, 0.02);
  EXPECT_EQ(model.pad_token_id, preset.pad);
  EXPECT_FALSE(model.tie_word_embeddings);
  EXPECT_EQ(model.binarize, Binarize::kColumn);

  EXPECT_EQ(config.train.global_batch, preset.gpus * preset.micro_batch * preset.accumulate);
  EXPECT_EQ(config.train.micro_batch, preset.micro_batch);
  EXPECT_EQ(micro_steps_per_step(config.train, preset.gpus), preset.accumulate);
  EXPECT_EQ(config.optimizer.schedule_micro_steps, preset.accumulate);
  EXPECT_EQ(config.optimizer.total_steps, preset.total_steps);
  EXPECT_EQ(config.train.steps, preset.steps);
  EXPECT_EQ(config.train.seq_len, 2048);
  EXPECT_EQ(config.train.precision, Precision::kBf16);
  EXPECT_TRUE(config.train.recompute);

  EXPECT_EQ(config.optimizer.lr, 3e-4);
  EXPECT_EQ(config.optimizer.end_lr, 3e-5);
  EXPECT_EQ(config.optimizer.beta1, 0.9);
  EXPECT_EQ(config.optimizer.beta2, 0.95);
  EXPECT_EQ(config.optimizer.eps, 1e-8);
  EXPECT_EQ(config.optimizer.weight_decay, 0.1);
  EXPECT_EQ(config.optimizer.clip_norm, 1.0);
  EXPECT_EQ(config.optimizer.warmup_steps, 2000);
  EXPECT_EQ(config.objective.next_token, 0.0);
  EXPECT_EQ(config.objective.distill, 1.0);
  EXPECT_EQ(config.objective.temperature, 1.0);
  EXPECT_EQ(config.data.format, DataFormat::kAmber);
}

TEST_P(PublishedPresets, StepsFollowFromTheData) {
  const Published& preset = GetParam();
  const RunConfig config = load_run_config(configs() / preset.file, {.world_size = preset.gpus});
  const std::int64_t samples_per_file = 1706976;
  const std::int64_t files = 360;
  const auto skipped = static_cast<std::int64_t>(config.data.skip_files.size());
  EXPECT_EQ(files * samples_per_file / config.train.global_batch, preset.total_steps);
  EXPECT_EQ((files - skipped) * samples_per_file / config.train.global_batch, preset.steps);
}

INSTANTIATE_TEST_SUITE_P(
    Presets, PublishedPresets,
    testing::Values(
        Published{"130m.json", 4, 32, 8, 12, 768, 2048, 12, 600108, 600108, 0},
        Published{"1.3b.json", 16, 18, 4, 24, 2048, 5632, 32, 533430, 526021, 0},
        Published{"7b.json", 32, 6, 10, 32, 4096, 11008, 32, 320058, 320058, std::nullopt},
        // Batch and schedule of this one are our choice: only its architecture was published.
        Published{"13b.json", 64, 3, 10, 40, 5120, 13824, 40, 320058, 320058, 0}));

TEST(Presets, SkippedFilesOfThe1300MillionModel) {
  EXPECT_EQ(load_run_config(configs() / "1.3b.json").data.skip_files,
            (std::vector<std::int64_t>{7, 12, 20, 24, 26}));
  EXPECT_TRUE(load_run_config(configs() / "130m.json").data.skip_files.empty());
}

TEST(Presets, EveryFileLoadsOnOneRankAndRoundTrips) {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(configs())) {
    if (entry.path().extension() != ".json") continue;
    SCOPED_TRACE(entry.path());
    const RunConfig config = load_run_config(entry.path());
    EXPECT_NO_THROW(validate(config, 1));
    EXPECT_EQ(identity_hash(parse(to_json(config))), identity_hash(config));
    ++count;
  }
  EXPECT_GE(count, 6u);
}

TEST(Presets, QuickstartStudentFitsItsTeacher) {
  const RunConfig teacher = load_run_config(configs() / "quickstart_teacher.json");
  const RunConfig student = load_run_config(configs() / "quickstart_student.json");
  EXPECT_EQ(teacher.model.binarize, Binarize::kNone);
  EXPECT_EQ(student.model.binarize, Binarize::kColumn);
  EXPECT_EQ(teacher.objective.distill, 0.0);
  EXPECT_GT(student.objective.distill, 0.0);
  EXPECT_EQ(teacher.model.vocab_size, student.model.vocab_size);
  EXPECT_EQ(teacher.train.seq_len, student.train.seq_len);
  EXPECT_EQ(teacher.data.paths, student.data.paths);
}

TEST(ModelSize, CountsOfThePresets) {
  const ModelSize small = parameter_counts(load_run_config(configs() / "130m.json").model);
  // 12 layers of 4 x 768² + 3 x 768 x 2048; alpha and beta per input column: 6 x 768 + 2048.
  EXPECT_EQ(small.binarized, 12 * (4 * 768 * 768 + 3 * 768 * 2048));
  EXPECT_EQ(small.scales, 12 * 2 * (6 * 768 + 2048));
  EXPECT_EQ(small.dense, 2 * 32000 * 768 + 25 * 768);
  EXPECT_EQ(small.total(), small.binarized + small.scales + small.dense);
  const ModelSize large = parameter_counts(load_run_config(configs() / "7b.json").model);
  EXPECT_EQ(large.binarized + large.dense, 6738415616);  // as Llama-2-7B
}

TEST(ModelSize, CountsEveryPattern) {
  ModelConfig model;
  model.vocab_size = 10;
  model.hidden_size = 8;
  model.intermediate_size = 20;
  model.num_hidden_layers = 3;
  model.num_attention_heads = 4;
  model.num_key_value_heads = 2;
  model.head_dim = 6;
  // q [24, 8], k and v [12, 8], o [8, 24], gate and up [20, 8], down [8, 20]
  const std::int64_t weights = 3 * (24 * 8 + 2 * 12 * 8 + 8 * 24 + 2 * 20 * 8 + 8 * 20);
  const std::int64_t rest = 2 * 10 * 8 + 7 * 8;
  const auto counts = [&](Binarize binarize) {
    model.binarize = binarize;
    return parameter_counts(model);
  };
  EXPECT_EQ(counts(Binarize::kColumn).scales, 3 * 2 * (8 + 8 + 8 + 24 + 8 + 8 + 20));
  EXPECT_EQ(counts(Binarize::kRow).scales, 3 * 2 * (24 + 12 + 12 + 8 + 20 + 20 + 8));
  EXPECT_EQ(counts(Binarize::kSingle).scales, 3 * 2 * 7);
  EXPECT_EQ(counts(Binarize::kSingle).binarized, weights);
  model.tie_scales = true;
  EXPECT_EQ(counts(Binarize::kColumn).scales,
            3 * (8 + 24 + 8 + 20) + 3 * (8 + 8 + 8 + 24 + 8 + 8 + 20));
  model.shift = false;
  EXPECT_EQ(counts(Binarize::kColumn).scales, 3 * (8 + 24 + 8 + 20));
  model.tie_scales = false;
  EXPECT_EQ(counts(Binarize::kColumn).scales, 3 * (8 + 8 + 8 + 24 + 8 + 8 + 20));
  model.shift = true;
  EXPECT_EQ(counts(Binarize::kSingle).dense, rest);
  const ModelSize dense = counts(Binarize::kNone);
  EXPECT_EQ(dense.scales, 0);
  EXPECT_EQ(dense.binarized, 0);
  EXPECT_EQ(dense.dense, weights + rest);
  model.tie_word_embeddings = true;
  EXPECT_EQ(counts(Binarize::kNone).dense, weights + rest - 10 * 8);
}

}  // namespace
}  // namespace fbi::config::test
