#include "fbi/distill/objective.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "fbi/config/huggingface.h"
#include "fbi/config/load.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/distill/fp8_teacher.h"
#include "fbi/distill/teacher.h"
#include "nn/write_model_folder.h"
#include "support/expect_error.h"
#include "support/random_tensor.h"
#include "support/temp_dir.h"

namespace fbi::distill {
namespace {

using test::random_tensor;

constexpr std::int64_t kVocab = 29, kBatch = 3, kSeq = 5, kTokens = kBatch * kSeq;
constexpr double kGradScale = 0.25;

config::ModelConfig tiny_model(std::int64_t hidden, config::Binarize binarize) {
  config::ModelConfig model;
  model.vocab_size = kVocab;
  model.hidden_size = hidden;
  model.intermediate_size = 20;
  model.num_hidden_layers = 1;
  model.num_attention_heads = 2;
  model.max_position_embeddings = 16;
  model.initializer_range = 0.5;  // logits of size 1: distributions that are far from uniform
  model.binarize = binarize;
  config::resolve(model);
  return model;
}

/// The objective over all logits at once, in double.
struct Whole {
  double next_token = 0, distill = 0;
  at::Tensor dhidden, dhead;
};

Whole whole_logits(const config::ObjectiveConfig& c, const at::Tensor& hidden,
                   const at::Tensor& head, const at::Tensor& teacher_logits,
                   const at::Tensor& targets) {
  const at::Tensor rows = hidden.to(at::kDouble).view({kTokens, -1}), weight = head.to(at::kDouble);
  const at::Tensor logits = rows.mm(weight.t());
  const at::Tensor index = targets.to(at::kLong).unsqueeze(1);
  at::Tensor dlogits = at::zeros_like(logits);
  Whole out;
  out.next_token = -logits.log_softmax(-1).gather(1, index).sum().item<double>();
  const at::Tensor one_hot = at::zeros_like(logits).scatter_(1, index, 1.0);
  dlogits += c.next_token * (logits.softmax(-1) - one_hot);
  if (c.distill > 0) {
    const double t = c.temperature;
    const at::Tensor soft = (teacher_logits.to(at::kDouble) / t).softmax(-1);
    out.distill = -t * t * (soft * (logits / t).log_softmax(-1)).sum().item<double>();
    dlogits += c.distill * t * ((logits / t).softmax(-1) - soft);
  }
  dlogits *= kGradScale;
  out.dhidden = dlogits.mm(weight).view(hidden.sizes());
  out.dhead = dlogits.t().mm(rows);
  return out;
}

class ObjectiveTerms : public ::testing::TestWithParam<config::ObjectiveConfig> {};

TEST_P(ObjectiveTerms, AreThoseOfWholeLogitsForAnyChunk) {
  const auto config = GetParam();
  nn::LlamaForCausalLM student(tiny_model(16, config::Binarize::kColumn), {});
  nn::LlamaForCausalLM teacher(tiny_model(12, config::Binarize::kNone), {});
  nn::load_weights(student, *nn::random_weights(student.config(), 1));
  nn::load_weights(teacher, *nn::random_weights(teacher.config(), 2));
  student.allocate_gradients();
  const at::Tensor hidden = random_tensor({kBatch, kSeq, 16}, "student");
  const at::Tensor reference = random_tensor({kBatch, kSeq, 12}, "teacher");
  const at::Tensor targets =
      (random_tensor({kTokens}, "targets").abs() * 10).to(at::kInt).clamp_max_(kVocab - 1);
  const Whole expected =
      whole_logits(config, hidden, student.head().value,
                   reference.view({kTokens, -1}).mm(teacher.head().value.t()), targets);

  for (const std::int64_t chunk : {std::int64_t{1}, std::int64_t{7}, kTokens, std::int64_t{1000}}) {
    const Objective objective(config, chunk);
    student.head().grad.zero_();
    const bool taught = objective.needs_teacher();
    ASSERT_EQ(taught, config.distill > 0);
    const auto found = objective.run(student, hidden, taught ? &teacher : nullptr,
                                     taught ? reference : at::Tensor(), targets, kGradScale);
    const ops::LossSums sums = ops::read_sums(found.sums).front();
    // fp32 logits of size 1 to 10 with sums of 16 products: 1e-6 relative, 15 tokens of a loss of
    // about 4.
    EXPECT_NEAR(sums.next_token, expected.next_token, 1e-4) << "chunk " << chunk;
    if (config.distill > 0)
      EXPECT_NEAR(sums.distill, expected.distill, 1e-4 * config.temperature * config.temperature)
          << "chunk " << chunk;
    EXPECT_EQ(objective.loss(sums, kTokens),
              (config.next_token * sums.next_token + config.distill * sums.distill) / kTokens);
    ASSERT_EQ(found.dhidden.sizes(), hidden.sizes());
    EXPECT_TRUE(found.dhidden.to(at::kDouble).allclose(expected.dhidden, 1e-5, 1e-6))
        << "chunk " << chunk;
    EXPECT_TRUE(student.head().grad.to(at::kDouble).allclose(expected.dhead, 1e-5, 1e-6))
        << "chunk " << chunk;
  }
}

INSTANTIATE_TEST_SUITE_P(Weights, ObjectiveTerms,
                         ::testing::Values(config::ObjectiveConfig{1, 0, 1},
                                           config::ObjectiveConfig{0, 1, 1},
                                           config::ObjectiveConfig{0, 1, 2},
                                           config::ObjectiveConfig{0.3, 0.7, 2},
                                           config::ObjectiveConfig{2, 3, 0.5}));

TEST(Objective, AddsToTheGradientOfTheHead) {
  nn::LlamaForCausalLM student(tiny_model(16, config::Binarize::kColumn), {});
  nn::load_weights(student, *nn::random_weights(student.config(), 1));
  student.allocate_gradients();
  const Objective objective({1, 0, 1}, 4);
  const at::Tensor hidden = random_tensor({kBatch, kSeq, 16}, "student");
  const at::Tensor targets = at::zeros({kTokens}, at::kInt);
  objective.run(student, hidden, nullptr, {}, targets, kGradScale);
  const at::Tensor once = student.head().grad.clone();
  objective.run(student, hidden, nullptr, {}, targets, kGradScale);
  // Another order of the same sums.
  EXPECT_TRUE(student.head().grad.allclose(2 * once, 1e-5, 1e-7));
}

/// A head in fp16 is multiplied in fp32, several rows at a time.
TEST(Objective, TakesTheTeachersHeadInPieces) {
  auto large = [](config::ModelConfig model) {
    model.vocab_size = 2 * kTeacherHeadRows + 123;
    return model;
  };
  nn::LlamaForCausalLM student(large(tiny_model(16, config::Binarize::kColumn)), {});
  nn::LlamaForCausalLM teacher(large(tiny_model(12, config::Binarize::kNone)), {});
  nn::load_weights(student, *nn::random_weights(student.config(), 1));
  nn::load_weights(teacher, *nn::random_weights(teacher.config(), 2));
  student.allocate_gradients();
  const at::Tensor hidden = random_tensor({kBatch, kSeq, 16}, "student");
  const at::Tensor reference = random_tensor({kBatch, kSeq, 12}, "teacher");
  const at::Tensor targets = at::zeros({kTokens}, at::kInt);
  const auto run = [&](const at::Tensor& head) {
    teacher.head().value = head;
    student.head().grad.zero_();
    return Objective({0.5, 0.5, 1}, 4)
        .run(student, hidden, &teacher, reference, targets, kGradScale);
  };
  const at::Tensor half = teacher.head().value.to(at::kHalf);
  const auto expected = run(half.to(at::kFloat)), found = run(half);
  // fp32 sums, perhaps in another order.
  EXPECT_TRUE(found.sums.allclose(expected.sums, 1e-6, 0));
  EXPECT_TRUE(found.dhidden.allclose(expected.dhidden, 1e-5, 1e-7));
}

class Teacher : public ::testing::Test {
 protected:
  Teacher() {
    nn::write_model_folder(folder_.path(), model_, nn::random_model(model_, 4));
    train_.seq_len = 16;
  }

  test::TempDir folder_;
  config::ModelConfig model_ = tiny_model(12, config::Binarize::kNone);
  config::ModelConfig student_ = tiny_model(16, config::Binarize::kColumn);
  config::TrainConfig train_;
  config::TeacherConfig teacher_{folder_.path().string(), ""};
  std::unique_ptr<distributed::Communicator> ranks_ = distributed::make_single_rank();
};

TEST_F(Teacher, IsTheModelOfItsFolder) {
  const auto loaded = load_teacher(teacher_, student_, train_, *ranks_, false);
  nn::LlamaForCausalLM expected(model_, {});
  nn::load_weights(expected, *nn::random_weights(model_, 4));
  const at::Tensor ids = at::zeros({1, 7}, at::kLong);
  EXPECT_TRUE(loaded->hidden_states(ids).equal(expected.hidden_states(ids)));
  for (const auto* slot : loaded->model().slots()) EXPECT_FALSE(slot->grad.defined());
  EXPECT_EQ(check_teacher(teacher_, student_, train_, false).config.hidden_size, 12);
}

TEST_F(Teacher, RunsInTheChosenDtype) {
  teacher_.dtype = "bf16";
  const auto bf16 = load_teacher(teacher_, student_, train_, *ranks_, false);
  EXPECT_EQ(bf16->model().options().compute_dtype, at::kBFloat16);
  EXPECT_EQ(bf16->model().head().value.scalar_type(), at::kBFloat16);
  teacher_.dtype = "fp16";
  const auto fp16 = load_teacher(teacher_, student_, train_, *ranks_, false);
  EXPECT_EQ(fp16->model().options().compute_dtype, at::kFloat);  // fp16 arithmetic is for GPUs
  EXPECT_EQ(fp16->model().head().value.scalar_type(), at::kHalf);
}

std::int64_t decoder_bytes(nn::LlamaForCausalLM& model) {
  std::size_t bytes = 0;
  for (auto* slot : model.stage_slots(0))
    if (slot->kind == ops::SlotKind::kDense) bytes += slot->value.nbytes();
  return static_cast<std::int64_t>(bytes);
}

TEST_F(Teacher, TakesOneBytePerDecoderWeightInFp8AndTellsItsDrift) {
  const at::Tensor ids =
      (random_tensor({2, 7}, "ids").abs() * 10).to(at::kLong).clamp_max_(kVocab - 1);
  const at::Tensor expected =
      load_teacher(teacher_, student_, train_, *ranks_, false)->hidden_states(ids);
  teacher_.dtype = "fp8";
  const auto loaded = load_teacher(teacher_, student_, train_, *ranks_, false);
  nn::LlamaForCausalLM& model = loaded->model();
  EXPECT_TRUE(loaded->hidden_states(ids).equal(expected));  // not yet
  const std::int64_t before = decoder_bytes(model);
  const Fp8Drift drift = store_as_fp8(model, ids);
  EXPECT_EQ(decoder_bytes(model) * 4, before);
  EXPECT_EQ(model.head().value.scalar_type(), at::kFloat);

  const at::Tensor p = model.head_logits(expected.view({14, -1})).to(at::kDouble).log_softmax(-1);
  const at::Tensor q =
      model.head_logits(loaded->hidden_states(ids).view({14, -1})).to(at::kDouble).log_softmax(-1);
  EXPECT_EQ(drift.tokens, 14);
  EXPECT_NEAR(drift.divergence, (p.exp() * (p - q)).sum(-1).mean().item<double>(), 1e-6);
  EXPECT_GT(drift.divergence, 1e-6);
  EXPECT_LT(drift.divergence, 0.05);  // of distributions with an entropy of 2 to 3
  EXPECT_EQ(drift.same_first, p.argmax(-1).eq(q.argmax(-1)).to(at::kDouble).mean().item<double>());
}

TEST_F(Teacher, ThatIsBinarizedIsNotStoredAsFp8) {
  nn::LlamaForCausalLM binarized(tiny_model(16, config::Binarize::kColumn), {});
  nn::load_weights(binarized, *nn::random_weights(binarized.config(), 1));
  test::expect_error<UsageError>(
      [&] {
        store_as_fp8(binarized, at::zeros({1, 2}, at::kLong));
      },
      "binarized already");
}

TEST_F(Teacher, WithAnotherVocabularyIsRefused) {
  student_.vocab_size = 31;
  const auto check = [&] { check_teacher(teacher_, student_, train_, false); };
  test::expect_error<UsageError>(check, folder_.path().string(), "its vocabulary has 29 tokens",
                                 "model.vocab_size is 31");
  test::expect_error<UsageError>([&] { load_teacher(teacher_, student_, train_, *ranks_, false); },
                                 "its vocabulary has 29");
}

TEST_F(Teacher, WithTooFewPositionsIsRefused) {
  train_.seq_len = 17;
  const auto check = [&] { check_teacher(teacher_, student_, train_, false); };
  test::expect_error<UsageError>(check, folder_.path().string(), "train.seq_len 17",
                                 "max_position_embeddings 16");
}

/// Its signs are as small as they can be.
TEST_F(Teacher, ThatIsBinarizedStaysWhole) {
  model_.binarize = config::Binarize::kColumn;
  teacher_.path = (folder_ / "bits").string();
  nn::write_model_folder(teacher_.path, model_, nn::random_model(model_, 4));
  EXPECT_EQ(check_teacher(teacher_, student_, train_, false).config.binarize,
            config::Binarize::kColumn);
  test::expect_error<UsageError>([&] { check_teacher(teacher_, student_, train_, true); },
                                 "parallel.shard_teacher", "bits is binarized already");
  teacher_.dtype = "fp8";
  test::expect_error<UsageError>([&] { check_teacher(teacher_, student_, train_, false); },
                                 "teacher.dtype=fp8", "bits is binarized already");
}

TEST_F(Teacher, ThatLacksATensorIsRefusedBeforeItIsRead) {
  model_.tie_word_embeddings = true;
  nn::write_model_folder(folder_.path(), model_, nn::random_model(model_, 4));
  model_.tie_word_embeddings = false;
  write_file(folder_ / "config.json", config::model_config_to_hf_json(model_, "float32"));
  test::expect_error<DataError>([&] { check_teacher(teacher_, student_, train_, false); },
                                "do not fit the model", "missing: lm_head.weight");
}

TEST_F(Teacher, ThatIsAbsentIsRefused) {
  teacher_.path = (folder_ / "nowhere").string();
  test::expect_error<DataError>([&] { check_teacher(teacher_, student_, train_, false); },
                                teacher_.path);
}

}  // namespace
}  // namespace fbi::distill
