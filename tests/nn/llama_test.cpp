#include "fbi/nn/llama.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numbers>
#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "fbi/config/load.h"
#include "fbi/core/error.h"
#include "fbi/nn/layerwise_pass.h"
#include "fbi/nn/weights.h"
#include "fbi/ops/slot_ops.h"
#include "support/expect_error.h"
#include "support/random_tensor.h"

namespace fbi::nn {
namespace {

using test::random_tensor;

constexpr std::int64_t kVocab = 23, kBatch = 2, kSeq = 6;

config::ModelConfig tiny_model(config::Binarize binarize) {
  config::ModelConfig model;
  model.vocab_size = kVocab;
  model.hidden_size = 16;
  model.intermediate_size = 20;
  model.num_hidden_layers = 2;
  model.num_attention_heads = 4;
  model.num_key_value_heads = 2;
  model.max_position_embeddings = 16;
  model.initializer_range = 0.3;  // attention and gates away from their linear range
  model.binarize = binarize;
  config::resolve(model);
  return model;
}

std::unique_ptr<LlamaForCausalLM> make_model(const config::ModelConfig& config) {
  auto model = std::make_unique<LlamaForCausalLM>(config, LlamaOptions{});
  load_weights(*model, *random_weights(config, 1));
  for (auto* slot : model->slots())  // norms other than 1 show a norm that is left out
    if (slot->kind == ops::SlotKind::kVector)
      slot->value.add_(0.2 * random_tensor(slot->shape, slot->name));
  model->allocate_gradients();
  return model;
}

/// [kBatch, kSeq], the last two ids of each row equal.
at::Tensor some_ids() {
  return at::tensor({3, 1, 4, 1, 5, 5, 9, 2, 6, 22, 0, 0}, at::kLong).view({kBatch, kSeq});
}

std::vector<std::int32_t> as_tokens(const at::Tensor& ids) {
  return {ids.const_data_ptr<std::int64_t>(), ids.const_data_ptr<std::int64_t>() + ids.numel()};
}

at::Tensor logits_of(LlamaForCausalLM& model, const at::Tensor& ids) {
  at::Tensor out = at::empty({ids.size(0), ids.size(1), model.vocab_size()}, at::kFloat);
  model.logits(as_tokens(ids), ids.size(0), ids.size(1),
               {out.data_ptr<float>(), static_cast<std::size_t>(out.numel())});
  return out;
}

/// Gradients of L = Σ hidden·r over the hidden states, for a fixed random r, into the slots.
at::Tensor backward(LlamaForCausalLM& model, const at::Tensor& ids, bool recompute) {
  LayerwisePass pass(model, recompute);
  const at::Tensor hidden = pass.forward(ids);
  pass.backward(random_tensor(hidden.sizes().vec(), "r"));
  return hidden;
}

double loss(LlamaForCausalLM& model, const at::Tensor& ids) {
  const at::Tensor hidden = model.hidden_states(ids);
  return (hidden.to(at::kDouble) * random_tensor(hidden.sizes().vec(), "r")).sum().item<double>();
}

ops::ParameterSlot& slot_named(LlamaForCausalLM& model, const std::string& name) {
  const auto& slots = model.slots();
  return **std::find_if(slots.begin(), slots.end(),
                        [&](const auto* slot) { return slot->name == name; });
}

TEST(Llama, GradientsAreFiniteDifferences) {
  auto model = make_model(tiny_model(config::Binarize::kNone));
  const at::Tensor ids = some_ids();
  backward(*model, ids, false);
  for (auto* slot : model->slots()) {
    if (slot->name == "lm_head.weight") continue;  // above the hidden states
    float* values = slot->value.data_ptr<float>();
    const std::int64_t step = std::max<std::int64_t>(1, slot->value.numel() / 5);
    for (std::int64_t i = 3 % slot->value.numel(); i < slot->value.numel(); i += step) {
      const float value = values[i];
      constexpr float kDelta = 1.0f / 256;
      values[i] = value + kDelta;
      const double above = loss(*model, ids);
      values[i] = value - kDelta;
      const double below = loss(*model, ids);
      values[i] = value;
      const double found = slot->grad.data_ptr<float>()[i];
      // The loss sums 192 fp32 hidden states of size 1, each good to about 1e-6: 2e-5 over 2 delta
      // is 2e-3. The curvature of the network adds delta² times a third derivative, some 1e-2 of
      // the gradients of size 1 to 10.
      EXPECT_NEAR(found, (above - below) / (2 * kDelta), 5e-3 + 1e-2 * std::abs(found))
          << slot->name << "[" << i << "]";
    }
  }
}

TEST(Llama, RecomputeAddsTheSameGradients) {
  for (const auto binarize : {config::Binarize::kNone, config::Binarize::kColumn}) {
    auto kept = make_model(tiny_model(binarize)), recomputed = make_model(tiny_model(binarize));
    for (int micro_step = 0; micro_step < 2; ++micro_step) {  // the second one adds to the first
      backward(*kept, some_ids(), false);
      backward(*recomputed, some_ids(), true);
    }
    for (std::size_t i = 0; i < kept->slots().size(); ++i)
      EXPECT_TRUE(kept->slots()[i]->grad.equal(recomputed->slots()[i]->grad))
          << kept->slots()[i]->name;
  }
}

TEST(LayerwisePass, ReportsStagesFromTheLastToTheFirst) {
  auto model = make_model(tiny_model(config::Binarize::kColumn));
  LayerwisePass pass(*model, true);
  const at::Tensor hidden = pass.forward(some_ids());
  std::vector<std::int64_t> stages;
  pass.backward(hidden, [&](std::int64_t stage) { stages.push_back(stage); });
  EXPECT_EQ(stages, (std::vector<std::int64_t>{2, 1, 0}));
}

/// A dense model with the binarized weights W~ of a packed one.
class EffectiveWeights : public ::testing::TestWithParam<config::Binarize> {};

TEST_P(EffectiveWeights, OfAPackedModelGiveADenseOneWithTheSameBits) {
  auto packed = make_model(tiny_model(GetParam()));
  auto dense = make_model(tiny_model(config::Binarize::kNone));
  for (std::size_t i = 0; i < packed->slots().size(); ++i)
    dense->slots()[i]->value.copy_(ops::working_weight(*packed->slots()[i], at::kFloat));
  EXPECT_TRUE(backward(*packed, some_ids(), false).equal(backward(*dense, some_ids(), false)));
  EXPECT_TRUE(logits_of(*packed, some_ids()).equal(logits_of(*dense, some_ids())));
  for (std::size_t i = 0; i < packed->slots().size(); ++i)
    EXPECT_TRUE(packed->slots()[i]->grad.equal(dense->slots()[i]->grad))
        << packed->slots()[i]->name;
}

INSTANTIATE_TEST_SUITE_P(Patterns, EffectiveWeights,
                         ::testing::Values(config::Binarize::kColumn, config::Binarize::kRow,
                                           config::Binarize::kSingle),
                         [](const auto& info) {
                           return std::string(config::to_string(info.param));
                         });

TEST(Llama, SharedKeyHeadsAreThoseOfAModelThatRepeatsThem) {
  const auto shared_config = tiny_model(config::Binarize::kNone);
  auto full_config = shared_config;
  full_config.num_key_value_heads = full_config.num_attention_heads;
  auto shared = make_model(shared_config), full = make_model(full_config);
  for (auto* slot : full->slots()) {
    at::Tensor value = slot_named(*shared, slot->name).value;
    const bool repeated = value.sizes() != at::IntArrayRef(slot->shape);
    if (repeated)  // two heads of four rows: query heads 0, 1 read the first, 2, 3 the second
      value = value.view({2, 1, 4, 16}).expand({2, 2, 4, 16}).reshape({16, 16});
    slot->value.copy_(value);
  }
  // The same products of the same rows; BLAS may sum them in another order in a matrix of another
  // height.
  EXPECT_TRUE(logits_of(*shared, some_ids()).allclose(logits_of(*full, some_ids()), 1e-5, 1e-5));
}

TEST(Llama, ATiedHeadSharesTheEmbedding) {
  auto config = tiny_model(config::Binarize::kColumn);
  config.tie_word_embeddings = true;
  auto tied = make_model(config);
  config.tie_word_embeddings = false;
  auto untied = make_model(config);
  EXPECT_EQ(tied->slots().size() + 1, untied->slots().size());
  untied->head().value.copy_(untied->slots().front()->value);
  EXPECT_TRUE(logits_of(*tied, some_ids()).equal(logits_of(*untied, some_ids())));
  const auto& embedding = *tied->slots().front();
  EXPECT_TRUE(tied->head().value.is_same(embedding.value));
  EXPECT_TRUE(tied->head().grad.is_same(embedding.tied_grad));
  EXPECT_FALSE(embedding.grad.is_same(embedding.tied_grad));
}

TEST(Llama, ValuesAreKeptInTheDtypeThatWasAskedFor) {
  auto config = tiny_model(config::Binarize::kNone);
  config.tie_word_embeddings = true;
  LlamaForCausalLM model(config, {.value_dtype = at::kBFloat16});
  const auto weights = random_weights(config, 1);
  load_weights(model, *weights);
  for (const auto* slot : model.slots()) {
    const at::Tensor exact = read_tensor(*weights, slot->name, slot->shape);
    const auto dtype = slot->kind == ops::SlotKind::kVector ? at::kFloat : at::kBFloat16;
    EXPECT_EQ(slot->value.scalar_type(), dtype) << slot->name;
    EXPECT_TRUE(slot->value.equal(exact.to(dtype))) << slot->name;
  }
  EXPECT_TRUE(model.head().value.is_same(model.embedding().value));
}

TEST(Llama, TiedScalesAreMeansOverAllTheirRows) {
  auto config = tiny_model(config::Binarize::kColumn);
  config.tie_scales = true;
  for (const bool shift : {true, false}) {
    config.shift = shift;
    auto model = make_model(config);
    const auto weights = random_weights(config, 1);
    const std::string prefix = "model.layers.1.self_attn.";
    at::Tensor sum = at::zeros({16}, at::kDouble);
    double rows = 0;
    for (const char* name : {"q_proj.weight", "k_proj.weight", "v_proj.weight"}) {
      const auto& slot = slot_named(*model, prefix + name);
      EXPECT_TRUE(slot.alpha.is_same(slot_named(*model, prefix + "q_proj.weight").alpha));
      EXPECT_EQ(slot.learns_shift, shift);
      const at::Tensor latent = read_tensor(*weights, slot.name, slot.shape).to(at::kDouble);
      const at::Tensor beta = shift ? latent.mean(0) : at::zeros({16}, at::kDouble);
      EXPECT_TRUE(slot.beta.to(at::kDouble).allclose(beta, 1e-6, 1e-8));
      sum += (latent - beta).abs().sum(0);
      rows += static_cast<double>(slot.rows());
    }
    EXPECT_EQ(rows, 32);
    EXPECT_TRUE(slot_named(*model, prefix + "q_proj.weight")
                    .alpha.to(at::kDouble)
                    .allclose(sum / rows, 1e-6, 1e-8));
    EXPECT_TRUE(
        slot_named(*model, "model.layers.1.mlp.up_proj.weight")
            .alpha.is_same(slot_named(*model, "model.layers.1.mlp.gate_proj.weight").alpha));
    EXPECT_TRUE(slot_named(*model, "model.layers.1.mlp.down_proj.weight").owns_alpha());
    EXPECT_TRUE(slot_named(*model, prefix + "o_proj.weight").owns_alpha());
  }
}

TEST(Llama, LaterTokensDoNotChangeEarlierLogits) {
  auto model = make_model(tiny_model(config::Binarize::kColumn));
  const at::Tensor ids = some_ids();
  const at::Tensor before = logits_of(*model, ids);
  ids.select(1, kSeq - 1).fill_(17);
  const at::Tensor after = logits_of(*model, ids);
  EXPECT_TRUE(after.slice(1, 0, kSeq - 1).equal(before.slice(1, 0, kSeq - 1)));
  EXPECT_FALSE(after.equal(before));
}

TEST(Llama, CachedDecodingGivesTheLogitsOfAFullForward) {
  auto model = make_model(tiny_model(config::Binarize::kColumn));
  const at::Tensor ids = some_ids().view({1, kBatch * kSeq});
  const at::Tensor expected = logits_of(*model, ids);
  const auto tokens = as_tokens(ids);
  // One by one, and in pieces: several tokens behind a filled cache need a mask of their own.
  for (const std::vector<std::size_t>& pieces :
       {std::vector<std::size_t>(12, 1), std::vector<std::size_t>{12},
        std::vector<std::size_t>{1, 5, 1, 3, 2}}) {
    const auto session = model->start_decoding();
    std::size_t position = 0;
    for (const std::size_t count : pieces) {
      at::Tensor logits = at::empty({kVocab}, at::kFloat);
      session->feed({tokens.data() + position, count}, {logits.data_ptr<float>(), kVocab});
      position += count;
      ASSERT_EQ(session->position(), static_cast<std::int64_t>(position));
      // Attention of one query takes another path through the sums than one of many.
      EXPECT_TRUE(logits.allclose(expected[0][position - 1], 1e-5, 1e-5))
          << "position " << position;
    }
  }
}

TEST(Llama, DecodingEndsAtTheLastPosition) {
  auto model = make_model(tiny_model(config::Binarize::kColumn));
  const auto session = model->start_decoding();
  const std::vector<std::int32_t> tokens(16, 1), more(1, 1);
  std::vector<float> logits(kVocab);
  session->feed(tokens, logits);
  test::expect_error<UsageError>([&] { session->feed(more, logits); },
                                 "17 tokens exceeds max_position_embeddings 16");
}

TEST(Llama, TokenNllIsThatOfTheLogits) {
  auto model = make_model(tiny_model(config::Binarize::kRow));
  const at::Tensor ids = some_ids();
  at::Tensor found = at::empty({kBatch, kSeq - 1}, at::kFloat);
  model->token_nll(as_tokens(ids), kBatch, kSeq, {found.data_ptr<float>(), kBatch * (kSeq - 1)});
  const at::Tensor log_p = logits_of(*model, ids).to(at::kDouble).log_softmax(-1);
  const at::Tensor expected =
      -log_p.slice(1, 0, kSeq - 1).gather(2, ids.slice(1, 1, kSeq).unsqueeze(2)).squeeze(2);
  // fp32 logits of size 1 to 10, one rounding each in the exponent.
  EXPECT_TRUE(found.to(at::kDouble).allclose(expected, 1e-5, 1e-5));
}

TEST(Llama, EvaluationGoesChunkByChunk) {  // 600 positions: more than one chunk of logits
  auto config = tiny_model(config::Binarize::kColumn);
  config.max_position_embeddings = 300;
  auto model = make_model(config);
  at::Tensor ids = at::empty({2, 300}, at::kLong);
  for (std::int64_t i = 0; i < 600; ++i) ids.data_ptr<std::int64_t>()[i] = (i * i + 5) % kVocab;
  const at::Tensor hidden = model->hidden_states(ids).view({600, 16});
  const at::Tensor expected = model->head_logits(hidden).view({2, 300, kVocab});
  // Another height of the product.
  EXPECT_TRUE(logits_of(*model, ids).allclose(expected, 1e-6, 1e-6));
}

TEST(Llama, APaddingTokenGetsNoGradient) {
  auto config = tiny_model(config::Binarize::kColumn);
  auto all = make_model(config);
  config.pad_token_id = 5;
  auto padded = make_model(config);
  auto& embedding = *padded->slots().front();
  embedding.value.copy_(all->slots().front()->value);
  backward(*all, some_ids(), false);
  backward(*padded, some_ids(), false);
  EXPECT_TRUE(embedding.grad[5].eq(0).all().item<bool>());
  EXPECT_FALSE(all->slots().front()->grad[5].eq(0).any().item<bool>());
  embedding.grad[5].copy_(all->slots().front()->grad[5]);
  EXPECT_TRUE(embedding.grad.equal(all->slots().front()->grad));
}

TEST(Llama, AWrongNumberOfTokensIsRefused) {
  auto model = make_model(tiny_model(config::Binarize::kColumn));
  const std::vector<std::int32_t> tokens(5, 1);
  std::vector<float> out(5 * kVocab);
  test::expect_error<UsageError>([&] { model->logits(tokens, 2, 3, out); },
                                 "expected 2 x 3 tokens, found 5");
}

TEST(Llama, WeightsAreRoundedAsInThePublishedEvaluation) {
  auto model = make_model(tiny_model(config::Binarize::kColumn));
  const auto& slot = slot_named(*model, "model.layers.0.mlp.up_proj.weight");
  const at::Tensor alpha = slot.alpha.to(at::kHalf).to(at::kFloat),
                   beta = slot.beta.to(at::kHalf).to(at::kFloat);
  const at::Tensor exact = ops::working_weight(slot, at::kFloat);
  const at::Tensor sign = (exact - slot.beta).sign();
  model->round_weights(at::kHalf);
  EXPECT_TRUE(ops::working_weight(slot, at::kFloat)
                  .equal((beta + sign * alpha).to(at::kHalf).to(at::kFloat)));
}

TEST(Llama, RoundedActivationsMoveLogitsALittle) {
  auto model = make_model(tiny_model(config::Binarize::kColumn));
  const at::Tensor exact = logits_of(*model, some_ids());
  model->round_activations(4);
  const double moved = (logits_of(*model, some_ids()) - exact).norm().item<double>();
  // Steps of 1/127 of the largest of four inputs: below 0.4 % of each, through two layers.
  EXPECT_GT(moved, 1e-4 * exact.norm().item<double>());
  EXPECT_LT(moved, 3e-2 * exact.norm().item<double>());
  model->round_activations(0);
  EXPECT_TRUE(logits_of(*model, some_ids()).equal(exact));
}

double expected_frequency(const config::ModelConfig& model, std::int64_t pair) {
  const auto& s = model.rope_scaling;
  const double plain = std::pow(
      model.rope_theta, -2.0 * static_cast<double>(pair) / static_cast<double>(model.head_dim));
  if (s.type == "default") return plain;
  if (s.type == "linear") return plain / s.factor;
  const double turns =
      static_cast<double>(s.original_max_position_embeddings) * plain / (2 * std::numbers::pi);
  if (turns < s.low_freq_factor) return plain / s.factor;
  if (turns > s.high_freq_factor) return plain;
  const double smooth = (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  return (1 - smooth) * plain / s.factor + smooth * plain;
}

TEST(RotaryEmbedding, FrequenciesFollowTheFormulas) {
  config::ModelConfig model;
  model.head_dim = 64;
  model.rope_theta = 5e5;
  const config::ModelConfig plain = model;
  int slowed = 0, kept = 0, blended = 0;
  for (const auto& scaling : {config::RopeScaling{}, config::RopeScaling{"linear", 4, 1, 4, 0},
                              config::RopeScaling{"llama3", 8, 1, 4, 8192}}) {
    model.rope_scaling = scaling;
    const RotaryTable table = RotaryEmbedding(model, at::kCPU).table(5, 3, at::kFloat);
    ASSERT_EQ(table.cos.sizes(), (at::IntArrayRef{3, 32}));
    for (std::int64_t pair = 0; pair < 32 && scaling.type == "llama3"; ++pair) {
      const double ratio = expected_frequency(plain, pair) / expected_frequency(model, pair);
      ++(ratio == 1 ? kept : std::abs(ratio - 8) < 1e-12 ? slowed : blended);
    }
    for (std::int64_t position = 0; position < 3; ++position) {
      for (std::int64_t pair = 0; pair < 32; ++pair) {
        const double angle = static_cast<double>(5 + position) * expected_frequency(model, pair);
        // Angles up to 7, formed in fp32 from frequencies with a few roundings.
        EXPECT_NEAR(table.cos[position][pair].item<float>(), std::cos(angle), 3e-6)
            << scaling.type << " " << pair;
        EXPECT_NEAR(table.sin[position][pair].item<float>(), std::sin(angle), 3e-6)
            << scaling.type << " " << pair;
      }
    }
  }
  EXPECT_GT(std::min({slowed, kept, blended}), 0) << "not all bands of llama3 are compared";
}

}  // namespace
}  // namespace fbi::nn
