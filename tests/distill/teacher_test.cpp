// A teacher that takes a batch in parts.
#include "fbi/distill/teacher.h"

#include <gtest/gtest.h>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>

#include "distributed/ranks.h"
#include "fbi/config/load.h"

namespace fbi::distill {
namespace {

constexpr std::int64_t kTokenIds = 29, kSamples = 6, kLength = 7;

config::ModelConfig three_layers() {
  config::ModelConfig model;
  model.vocab_size = kTokenIds;
  model.hidden_size = 16;
  model.intermediate_size = 20;
  model.num_hidden_layers = 3;
  model.num_attention_heads = 2;
  model.max_position_embeddings = 16;
  model.initializer_range = 0.5;
  model.binarize = config::Binarize::kNone;
  config::resolve(model);
  return model;
}

at::Tensor some_batch() {
  return (at::arange(kSamples * kLength) * 17 % kTokenIds).view({kSamples, kLength});
}

/// On the ranks of `communicator`, or, without one, whole.
std::unique_ptr<distill::Teacher> make_teacher(distributed::Communicator* communicator = nullptr) {
  const auto weights = nn::random_weights(three_layers(), 1);
  auto model = std::make_unique<nn::LlamaForCausalLM>(
      three_layers(), nn::LlamaOptions{.allocate_layers = !communicator});
  if (communicator)
    return std::make_unique<distill::Teacher>(std::move(model), *weights, *communicator);
  nn::load_weights(*model, *weights);
  return std::make_unique<distill::Teacher>(std::move(model));
}

/// Rounding alone: products of fewer rows may be formed in another order.
void expect_close(const at::Tensor& found, const at::Tensor& expected) {
  ASSERT_EQ(found.sizes(), expected.sizes());
  EXPECT_LE((found - expected).abs().max().item<double>(), 1e-5);
}

TEST(TeacherMicroBatch, GivesTheHiddenStatesOfTheWholeBatch) {
  const at::Tensor ids = some_batch();
  const auto teacher = make_teacher();
  const at::Tensor whole = teacher->hidden_states(ids);
  for (const std::int64_t samples : {1, 2, 4, 6, 9}) {  // 4: the last part is short
    teacher->set_micro_batch(samples);
    expect_close(teacher->hidden_states(ids), whole);
  }
}

TEST(TeacherMicroBatch, OverRanksGathersALayerOnce) {
  const at::Tensor ids = some_batch();
  const at::Tensor whole = make_teacher()->hidden_states(ids);
  test::run_ranks_ok(2, [&](distributed::Communicator& communicator) {
    at::set_num_threads(1);
    const auto teacher = make_teacher(&communicator);
    const auto sent = [&] {
      const auto before = communicator.traffic();
      expect_close(teacher->hidden_states(ids), whole);
      const auto kind = static_cast<std::size_t>(distributed::Payload::kTeacher);
      return communicator.traffic()[kind] - before[kind];
    };
    const auto at_once = sent();
    EXPECT_GT(at_once, 0);
    teacher->set_micro_batch(2);
    EXPECT_EQ(sent(), at_once);
  });
}

}  // namespace
}  // namespace fbi::distill
