#include "fbi/train/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fbi/config/load.h"
#include "fbi/core/error.h"
#include "fbi/nn/weights.h"
#include "support/expect_error.h"
#include "train/read_samples.h"

namespace fbi::train {
namespace {

config::ModelConfig tiny_model() {
  config::ModelConfig model;
  model.vocab_size = kSampleVocab;
  model.hidden_size = 16;
  model.intermediate_size = 20;
  model.num_hidden_layers = 2;
  model.num_attention_heads = 2;
  model.max_position_embeddings = 8;
  config::resolve(model);
  return model;
}

/// A student with random weights under next-token training, and everything that its trainer needs.
struct Training {
  explicit Training(nn::LayerGradients layers = nn::LayerGradients::kAll) {
    train.seq_len = 8;
    train.global_batch = 4;
    train.micro_batch = 2;
    train.loss_chunk_tokens = 7;
    student.allocate_gradients(layers);
    optimizer =
        std::make_unique<optim::AdamW>(student.slots(), config::OptimizerConfig{}, *communicator);
    const auto source = nn::random_weights(student.config(), 3);
    nn::LoadReport report;
    for (auto* slot : student.slots())
      optimizer->adopt_latent(*slot, nn::load_slot(*slot, *source, report));
    trainer = std::make_unique<Trainer>(
        TrainerParts{student, nullptr, *optimizer, *communicator, read_samples},
        config::ObjectiveConfig{1, 0, 1}, train, optim::Schedule{1e-2, 1e-3, 0, 100, 2});
  }

  std::vector<std::pair<std::string, at::Tensor>> copies() const {
    std::vector<std::pair<std::string, at::Tensor>> out;
    for (const auto& named : optimizer->named_tensors())
      out.emplace_back(named.name, named.tensor.clone());
    for (const auto* slot : student.slots())
      if (slot->bits.defined()) out.emplace_back(slot->name + " bits", slot->bits.clone());
    return out;
  }

  config::TrainConfig train;
  std::unique_ptr<distributed::Communicator> communicator = distributed::make_single_rank();
  nn::LlamaForCausalLM student{tiny_model(), {}};
  std::unique_ptr<optim::AdamW> optimizer;
  std::unique_ptr<Trainer> trainer;
};

void expect_same(const Training& found,
                 const std::vector<std::pair<std::string, at::Tensor>>& expected) {
  const auto tensors = found.copies();
  ASSERT_EQ(tensors.size(), expected.size());
  for (std::size_t i = 0; i < tensors.size(); ++i)
    EXPECT_TRUE(tensors[i].second.equal(expected[i].second)) << tensors[i].first;
}

/// The first element of the final norm, which every loss depends on.
float& norm_element(Training& training) {
  for (auto* slot : training.student.slots())
    if (slot->name == "model.norm.weight") return slot->value.data_ptr<float>()[0];
  throw DataError("no final norm");
}

/// Also where a step is skipped.
TEST(Trainer, GradientsOnDemandChangeNoBitAndAreGoneAfterAStep) {
  Training held, on_demand(nn::LayerGradients::kOnDemand);
  for (int step = 0; step < 3; ++step) {
    if (step == 1)
      for (Training* t : {&held, &on_demand})
        norm_element(*t) = std::numeric_limits<float>::infinity();
    const StepMetrics expected = held.trainer->step(), found = on_demand.trainer->step();
    EXPECT_EQ(found.skipped, step == 1);
    if (step == 1)
      for (Training* t : {&held, &on_demand}) norm_element(*t) = 1;
    else
      EXPECT_EQ(found.loss, expected.loss);
    expect_same(on_demand, held.copies());
    for (const auto* slot : on_demand.student.slots())
      EXPECT_EQ(slot->grad.defined(), !slot->grad_on_demand) << slot->name;
  }
}

TEST(Trainer, CountsStepsTokensAndSamples) {
  Training t;
  for (int step = 1; step <= 3; ++step) {
    const StepMetrics metrics = t.trainer->step();
    EXPECT_EQ(metrics.step, step);
    EXPECT_EQ(metrics.sample_first, 4 * (step - 1));
    EXPECT_EQ(metrics.sample_count, 4);
    EXPECT_EQ(metrics.tokens, 32 * step);
    EXPECT_FALSE(metrics.skipped);
    ASSERT_EQ(metrics.micro_losses.size(), 2u);
    EXPECT_EQ(metrics.loss,
              (metrics.micro_losses[0].next_token + metrics.micro_losses[1].next_token) / 32);
    EXPECT_EQ(metrics.layer_flips.size(), 2u * 7u);
    std::int64_t flips = 0;
    for (const auto& layer : metrics.layer_flips) flips += layer.flips;
    EXPECT_EQ(metrics.flips, flips);
  }
  EXPECT_EQ(t.trainer->state(), (TrainState{3, 3, 96, 12, 0, 0}));
}

TEST(Trainer, StartsAtTheLossOfAUniformGuess) {
  Training t;
  // Logits of an untrained model of standard deviation 0.02 weights are within a few hundredths of
  // 0.
  EXPECT_NEAR(t.trainer->step().loss, std::log(static_cast<double>(kSampleVocab)), 0.1);
}

TEST(Trainer, LearnsTheSamplesItSees) {
  Training t;
  const double first = t.trainer->step().loss;
  double last = 0;
  for (int step = 0; step < 30; ++step) {
    TrainState state = t.trainer->state();
    state.position = 0;
    t.trainer->set_state(state);
    last = t.trainer->step().loss;
  }
  EXPECT_LT(last, first / 2);
}

TEST(Trainer, ANonFiniteStepChangesNothingButTheCounts) {
  for (const float value :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    Training t, fresh;
    const float healthy = std::exchange(norm_element(t), value);
    const StepMetrics metrics = t.trainer->step();
    norm_element(t) = healthy;
    EXPECT_TRUE(metrics.skipped);
    EXPECT_EQ(metrics.flips, 0);
    EXPECT_EQ(t.trainer->state(), (TrainState{1, 0, 32, 4, 1, 1}));
    expect_same(t, fresh.copies());

    // It leaves no trace in the gradients either: the next step is that of a trainer that starts
    // there.
    fresh.trainer->set_state(t.trainer->state());
    EXPECT_FALSE(t.trainer->step().skipped);
    fresh.trainer->step();
    EXPECT_EQ(t.trainer->state(), (TrainState{2, 1, 64, 8, 1, 0}));
    expect_same(t, fresh.copies());
  }
}

TEST(Trainer, CountsNonFiniteStepsInARow) {
  Training t;
  norm_element(t) = std::numeric_limits<float>::infinity();
  for (int step = 0; step < 3; ++step) t.trainer->step();
  EXPECT_EQ(t.trainer->state().skipped_in_row, 3);
  EXPECT_EQ(t.optimizer->updates(), 0);
}

TEST(Trainer, DistillationNeedsATeacher) {
  Training t;
  test::expect_error<UsageError>(
      [&] {
        Trainer({t.student, nullptr, *t.optimizer, *t.communicator, read_samples},
                config::ObjectiveConfig{0, 1, 1}, t.train, {});
      },
      "objective.distill > 0 needs a teacher");
}

}  // namespace
}  // namespace fbi::train
