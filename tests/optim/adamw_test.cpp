#include "fbi/optim/adamw.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "fbi/config/tensor_names.h"
#include "fbi/core/error.h"
#include "fbi/ops/packing.h"
#include "support/expect_error.h"
#include "support/random_tensor.h"

namespace fbi::optim {
namespace {

using ops::ParameterGroup;
using ops::ParameterSlot;
using ops::ScalePattern;
using ops::SlotKind;

constexpr std::int64_t kRows = 5, kColumns = 11;

at::Tensor random_tensor(const std::vector<std::int64_t>& shape, const std::string& key,
                         double stddev = 1) {
  return test::random_tensor(shape, key, stddev, 5);
}

std::vector<double> values(const at::Tensor& x) {
  const at::Tensor flat = x.contiguous();
  return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
}

ParameterSlot dense_slot(const std::string& name, ParameterGroup group,
                         const std::vector<std::int64_t>& shape) {
  ParameterSlot slot;
  slot.name = name;
  slot.kind = shape.size() == 1 ? SlotKind::kVector : SlotKind::kDense;
  slot.group = group;
  slot.shape = shape;
  slot.value = random_tensor(shape, name);
  slot.grad = at::zeros(shape, at::kFloat);
  return slot;
}

ParameterSlot packed_slot(const std::string& name, ScalePattern pattern) {
  ParameterSlot slot;
  slot.name = name;
  slot.kind = SlotKind::kPacked;
  slot.shape = {kRows, kColumns};
  slot.pattern = pattern;
  const std::int64_t scales = pattern == ScalePattern::kColumn ? kColumns
                              : pattern == ScalePattern::kRow  ? kRows
                                                               : 1;
  slot.bits = at::zeros({kRows, (kColumns + 7) / 8}, at::kByte);
  slot.alpha = at::empty({scales}, at::kFloat);
  slot.beta = at::empty({scales}, at::kFloat);
  slot.grad = at::zeros(slot.shape, at::kFloat);
  return slot;
}

/// One parameter tensor of the replay, in double.
struct Replayed {
  std::vector<double> value, exp_avg, exp_avg_sq, grad;
  config::GroupMultipliers factor;

  void update(const config::OptimizerConfig& c, double lr, double clip, double count) {
    lr *= factor.lr;
    for (std::size_t i = 0; i < value.size(); ++i) {
      const double g = clip * grad[i];
      value[i] *= 1 - lr * c.weight_decay * factor.weight_decay;
      exp_avg[i] = c.beta1 * exp_avg[i] + (1 - c.beta1) * g;
      exp_avg_sq[i] = c.beta2 * exp_avg_sq[i] + (1 - c.beta2) * g * g;
      const double m = exp_avg[i] / (1 - std::pow(c.beta1, count));
      const double v = exp_avg_sq[i] / (1 - std::pow(c.beta2, count));
      value[i] -= lr * m / (std::sqrt(v) + c.eps);
    }
  }
};

/// AdamW over named tensors as one writes it down, with alpha · G formed from the signs of the
/// latent weights.
class Replay {
 public:
  Replay(const AdamW& optimizer, const config::OptimizerConfig& config) : config_(config) {
    for (const auto& [name, tensor, row_begin, total_rows, repeated] : optimizer.named_tensors()) {
      if (name.starts_with("optimizer.")) continue;
      const auto start = values(tensor);
      const std::vector<double> zeros(start.size(), 0.0);
      tensors_[name] = {start, zeros, zeros, zeros, {}};
    }
    for (const auto& state : optimizer.states())
      tensors_.at(state.slot->name).factor = factor_of(state.slot->group);
    for (auto& [name, tensor] : tensors_)
      if (name.ends_with("wscale") || name.ends_with("wbias")) tensor.factor = config.groups.scale;
  }

  double finish_gradients(const AdamW& optimizer) {
    for (const auto& state : optimizer.states()) {
      const ParameterSlot& slot = *state.slot;
      auto raw = values(slot.grad);
      if (slot.tied_grad.defined()) {
        const auto tied = values(slot.tied_grad);
        for (std::size_t i = 0; i < raw.size(); ++i) raw[i] += tied[i];
      }
      if (slot.kind == SlotKind::kPacked) pass_straight_through(slot, raw);
      tensors_.at(slot.name).grad = raw;
    }
    double squares = 0;
    for (const auto& [name, tensor] : tensors_)
      for (const double g : tensor.grad) squares += g * g;
    return std::sqrt(squares);
  }

  void update(double lr, double norm) {
    ++count_;
    const double clip =
        config_.clip_norm > 0 ? std::min(1.0, config_.clip_norm / (norm + 1e-6)) : 1.0;
    for (auto& [name, tensor] : tensors_) tensor.update(config_, lr, clip, count_);
  }

  /// fp32 against double: a few roundings of 6e-8 relative per step and tensor; values are
  /// around 1.
  void expect_equal(const AdamW& optimizer) const {
    for (const auto& [name, tensor, row_begin, total_rows, repeated] : optimizer.named_tensors()) {
      const bool first = name.starts_with("optimizer.exp_avg.");
      const bool second = name.starts_with("optimizer.exp_avg_sq.");
      const auto& replayed = tensors_.at(first ? name.substr(18) : second ? name.substr(21) : name);
      const auto& expected = first    ? replayed.exp_avg
                             : second ? replayed.exp_avg_sq
                                      : replayed.value;
      const auto found = values(tensor);
      ASSERT_EQ(found.size(), expected.size()) << name;
      for (std::size_t i = 0; i < found.size(); ++i)
        ASSERT_NEAR(found[i], expected[i], 3e-6 * (1 + std::abs(expected[i])))
            << name << "[" << i << "]";
    }
  }

 private:
  config::GroupMultipliers factor_of(ParameterGroup group) const {
    if (group == ParameterGroup::kNorm) return config_.groups.norm;
    if (group == ParameterGroup::kEmbedding) return config_.groups.embedding;
    return config_.groups.latent;
  }

  void pass_straight_through(const ParameterSlot& slot, std::vector<double>& raw) {
    const auto& latent = tensors_.at(slot.name).value;
    auto& alpha = tensors_.at(config::scale_name(slot.name));
    auto& beta = tensors_.at(config::shift_name(slot.name));
    std::fill(alpha.grad.begin(), alpha.grad.end(), 0.0);
    std::fill(beta.grad.begin(), beta.grad.end(), 0.0);
    for (std::size_t i = 0; i < raw.size(); ++i) {
      const std::size_t scale = slot.pattern == ScalePattern::kColumn ? i % kColumns
                                : slot.pattern == ScalePattern::kRow  ? i / kColumns
                                                                      : 0;
      alpha.grad[scale] += latent[i] >= 0 ? raw[i] : -raw[i];
      beta.grad[scale] += raw[i];
      raw[i] *= alpha.value[scale];
    }
  }

  config::OptimizerConfig config_;
  std::map<std::string, Replayed> tensors_;
  double count_ = 0;
};

class AdamWSlots : public ::testing::Test {
 protected:
  AdamWSlots()
      : packed_{packed_slot("column.weight", ScalePattern::kColumn),
                packed_slot("row.weight", ScalePattern::kRow),
                packed_slot("single.weight", ScalePattern::kSingle)},
        matrix_(dense_slot("matrix.weight", ParameterGroup::kLatent, {3, 4})),
        norm_(dense_slot("norm.weight", ParameterGroup::kNorm, {6})),
        embedding_(dense_slot("embedding.weight", ParameterGroup::kEmbedding, {7, 2})) {
    embedding_.tied_grad = at::zeros(embedding_.shape, at::kFloat);
    config_.groups.scale = {0.5, 0.0};
    config_.groups.norm = {2.0, 0.25};
    config_.groups.embedding = {0.75, 3.0};
  }

  std::vector<ParameterSlot*> slots() {
    return {&packed_[0], &packed_[1], &packed_[2], &matrix_, &norm_, &embedding_};
  }

  AdamW make() {
    AdamW optimizer(slots(), config_, *communicator_);
    for (auto& slot : packed_) {
      const at::Tensor latent = random_tensor(slot.shape, slot.name);
      ops::pack_signs(slot, latent);
      ops::initial_scales(slot, latent);
      optimizer.adopt_latent(slot, latent);
    }
    return optimizer;
  }

  void plant_gradients(const std::string& key, double stddev) {
    for (auto* slot : slots())
      slot->grad.copy_(random_tensor(slot->shape, key + slot->name, stddev));
    embedding_.tied_grad.copy_(random_tensor(embedding_.shape, key + "tied", stddev));
  }

  /// Ten steps beside the replay; every third has a gradient far below the clipping norm of 1.
  void expect_follows_replay() {
    AdamW optimizer = make();
    Replay replay(optimizer, config_);
    std::int64_t flips = 0;
    for (int step = 0; step < 10; ++step) {
      plant_gradients(std::to_string(step), step % 3 == 0 ? 1e-3 : 1.0);
      const double expected_norm = replay.finish_gradients(optimizer);
      const double norm = optimizer.finish_gradients();
      ASSERT_NEAR(norm, expected_norm, 1e-6 * expected_norm);  // fp32 gradients, summed in double
      const double lr = 0.05 * (step + 1);
      optimizer.update(lr, norm);
      replay.update(lr, norm);
      replay.expect_equal(optimizer);
      if (HasFatalFailure()) return;
      for (const auto& state : optimizer.states()) flips += state.flips;
      optimizer.zero_gradients();
    }
    EXPECT_GT(flips, 0) << "no sign flipped: too easy";
    EXPECT_EQ(optimizer.updates(), 10);
  }

  std::unique_ptr<distributed::Communicator> communicator_ = distributed::make_single_rank();
  config::OptimizerConfig config_;
  std::array<ParameterSlot, 3> packed_;
  ParameterSlot matrix_, norm_, embedding_;
};

TEST_F(AdamWSlots, FollowAReplayInDoubleWithClipping) {
  expect_follows_replay();
}

TEST_F(AdamWSlots, FollowAReplayInDoubleWithoutClipping) {
  config_.clip_norm = 0;
  expect_follows_replay();
}

TEST_F(AdamWSlots, HaveSignBitsOfTheirLatentWeightsAndCountFlips) {
  AdamW optimizer = make();
  for (int step = 0; step < 3; ++step) {
    const at::Tensor earlier = packed_[0].bits.clone();
    const at::Tensor latent_before = optimizer.states()[0].latent.clone();
    plant_gradients(std::to_string(step), 1.0);
    packed_[0].unpacked_is_current = true;
    optimizer.update(0.3, optimizer.finish_gradients());
    const at::Tensor latent = optimizer.states()[0].latent;
    EXPECT_EQ(optimizer.states()[0].flips,
              latent.ge(0).ne(latent_before.ge(0)).sum().item<std::int64_t>());
    EXPECT_FALSE(packed_[0].unpacked_is_current);
    const at::Tensor written = packed_[0].bits.clone();
    ops::pack_signs(packed_[0], latent);
    EXPECT_TRUE(packed_[0].bits.equal(written));
    EXPECT_FALSE(written.equal(earlier));
  }
}

TEST_F(AdamWSlots, ZeroGradientsClearsTheTiedPartToo) {
  AdamW optimizer = make();
  plant_gradients("x", 1.0);
  optimizer.zero_gradients();
  EXPECT_EQ(optimizer.finish_gradients(), 0.0);
}

TEST_F(AdamWSlots, PublishRewritesTheSignsFromTheLatentWeights) {
  AdamW optimizer = make();
  std::map<std::string, at::Tensor> tensors;
  for (auto& [name, tensor, row_begin, total_rows, repeated] : optimizer.named_tensors())
    tensors[name] = tensor;
  tensors.at("row.weight").neg_();
  const at::Tensor before = packed_[1].bits.clone();
  packed_[1].unpacked_is_current = true;
  optimizer.publish();
  EXPECT_FALSE(packed_[1].unpacked_is_current);
  // 5 rows of 11 bits, in bytes: every bit but the 5 unused ones of each row is inverted.
  for (std::int64_t row = 0; row < kRows; ++row) {
    EXPECT_EQ(packed_[1].bits[row][0].item<int>(), 0xff & ~before[row][0].item<int>());
    EXPECT_EQ(packed_[1].bits[row][1].item<int>(), 0x07 & ~before[row][1].item<int>());
  }
}

TEST_F(AdamWSlots, NamesAndShapesAreThePublishedOnes) {
  AdamW optimizer = make();
  std::map<std::string, std::vector<std::int64_t>> shapes;
  for (const auto& [name, tensor, row_begin, total_rows, repeated] : optimizer.named_tensors())
    shapes[name] = tensor.sizes().vec();
  EXPECT_EQ(shapes.size(), 3u * (3 * 3 + 3));
  using Shape = std::vector<std::int64_t>;
  EXPECT_EQ(shapes.at("column.wscale"), (Shape{1, kColumns}));
  EXPECT_EQ(shapes.at("optimizer.exp_avg_sq.row.wbias"), (Shape{kRows, 1}));
  EXPECT_EQ(shapes.at("single.wscale"), Shape{});
  EXPECT_EQ(shapes.at("optimizer.exp_avg.column.weight"), (Shape{kRows, kColumns}));
}

TEST(AdamWTiedScales, HaveTheSumOfTheGradientsAndOneUpdate) {
  std::array<ParameterSlot, 3> slots{packed_slot("q.weight", ScalePattern::kColumn),
                                     packed_slot("k.weight", ScalePattern::kColumn),
                                     packed_slot("alone.weight", ScalePattern::kColumn)};
  slots[1].alpha = slots[0].alpha;
  slots[1].alpha_rows_before = kRows;
  for (auto& slot : slots) {
    slot.learns_shift = false;
    slot.beta.zero_();
  }
  const auto communicator = distributed::make_single_rank();
  AdamW optimizer({&slots[0], &slots[1], &slots[2]}, {}, *communicator);
  for (auto& slot : slots) {
    const at::Tensor latent = random_tensor(slot.shape, slot.name);
    ops::pack_signs(slot, latent);
    ops::initial_scales(slot, latent);
    optimizer.adopt_latent(slot, latent);
    slot.grad.copy_(random_tensor(slot.shape, "gradient of " + slot.name));
  }
  const double norm = optimizer.finish_gradients();
  std::vector<double> shared(kColumns), alone(kColumns);
  double squares = 0;
  for (std::size_t n = 0; n < slots.size(); ++n) {
    const auto raw = values(slots[n].grad), latent = values(optimizer.states()[n].latent);
    const auto alpha = values(slots[n].alpha);
    for (std::size_t i = 0; i < raw.size(); ++i) {
      (n < 2 ? shared : alone)[i % kColumns] += latent[i] >= 0 ? raw[i] : -raw[i];
      squares += std::pow(alpha[i % kColumns] * raw[i], 2);
    }
  }
  const auto found = values(optimizer.states()[0].alpha_grad);
  for (std::size_t i = 0; i < kColumns; ++i) {
    EXPECT_NEAR(found[i], shared[i], 1e-5);  // one fp32 rounding for each slot and one for the sum
    squares += shared[i] * shared[i] + alone[i] * alone[i];
  }
  EXPECT_NEAR(norm, std::sqrt(squares), 1e-6 * norm);
  EXPECT_FALSE(optimizer.states()[1].alpha_grad.defined());
  EXPECT_EQ(optimizer.states()[1].alpha_owner, 0u);

  const at::Tensor before = slots[0].alpha.clone();
  optimizer.update(0.01, norm);
  EXPECT_TRUE(slots[1].alpha.equal(slots[0].alpha));
  // Adam's first step is lr · sign of the gradient, behind the weight decay.
  for (std::size_t i = 0; i < kColumns; ++i)
    EXPECT_NEAR(slots[0].alpha[static_cast<std::int64_t>(i)].item<double>(),
                before[static_cast<std::int64_t>(i)].item<double>() * (1 - 0.01 * 0.1) -
                    (shared[i] > 0 ? 0.01 : -0.01),
                1e-6);
  for (const auto& slot : slots) EXPECT_TRUE(slot.beta.eq(0).all().item<bool>());
  std::vector<std::string> names;
  for (const auto& tensor : optimizer.named_tensors())
    if (tensor.name.find(".wscale") != std::string::npos || tensor.name.ends_with("wbias"))
      names.push_back(tensor.name);
  EXPECT_EQ(names, (std::vector<std::string>{"q.wscale", "optimizer.exp_avg.q.wscale",
                                             "optimizer.exp_avg_sq.q.wscale", "k.wscale",
                                             "alone.wscale", "optimizer.exp_avg.alone.wscale",
                                             "optimizer.exp_avg_sq.alone.wscale"}));
  test::expect_error<UsageError>([&] { AdamW({&slots[1]}, {}, *communicator); }, "k.weight");
}

TEST_F(AdamWSlots, ForeignSlotsAreRefused) {
  AdamW optimizer = make();
  ParameterSlot other = packed_slot("other.weight", ScalePattern::kRow);
  test::expect_error<UsageError>([&] { optimizer.adopt_latent(other, other.grad); },
                                 "other.weight is not one of its slots");
}

}  // namespace
}  // namespace fbi::optim
