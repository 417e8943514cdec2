#include "infer/head_screen.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "fbi/core/random.h"
#include "fbi/infer/packed_model.h"
#include "fbi/infer/sampler.h"
#include "fbi/kernels/dispatch.h"
#include "infer/forward.h"
#include "infer/model_parts.h"
#include "infer/test_models.h"

namespace fbi::infer {
namespace {

/// A head alone.
class Rows final : public ModelParts {
 public:
  Rows(std::int64_t vocab, std::int64_t hidden, bool half) : half_(half) {
    config_ = test_model();
    config_.vocab_size = vocab;
    config_.hidden_size = hidden;
    values.resize(static_cast<std::size_t>(vocab * hidden));
  }
  const config::ModelConfig& config() const override { return config_; }
  std::vector<float> norm(const std::string&) const override { return {}; }
  std::vector<float> alpha(const std::string&) const override { return {}; }
  std::vector<float> beta(const std::string&) const override { return {}; }
  const std::uint8_t* sign_bits(const std::string&, kernels::MatrixShape,
                                std::vector<std::uint8_t>&) const override {
    return nullptr;
  }
  void row(const std::string&, std::int64_t index, std::span<float> out) const override {
    std::copy_n(values.begin() + index * config_.hidden_size, config_.hidden_size, out.begin());
  }
  bool is_half(const std::string&) const override { return half_; }

  std::vector<float> values;  // [V, D]

 private:
  config::ModelConfig config_;
  bool half_;
};

float normal(RandomStream& random) {
  double sum = -6;
  for (int k = 0; k < 12; ++k) sum += random.next_double();
  return static_cast<float>(sum);
}

/// A hidden state with its padding; every 50th value is `outlier` times as large.
std::vector<float> state(std::int64_t columns, std::int64_t padded, float outlier,
                         RandomStream& random) {
  std::vector<float> x(static_cast<std::size_t>(padded));
  for (std::int64_t i = 0; i < columns; ++i) {
    x[static_cast<std::size_t>(i)] = normal(random) * (i % 50 == 0 ? outlier : 1);
  }
  return x;
}

/// A screen over a head of its own.
class Screened {
 public:
  Screened(const Rows& parts, kernels::Storage storage)
      : head(dense_weights(parts, "", storage, serial_)), screen(parts, "", head, serial_) {}

  std::vector<float> logits(const std::vector<float>& x) const {
    std::vector<float> out(static_cast<std::size_t>(head.shape().rows));
    head.multiply(0, head.shape().rows, x.data(), 0, 1, out.data(), 0);
    return out;
  }
  HeadScreen::Search search(const std::vector<float>& x, const eval::Drawable& wanted,
                            bool find = true) const {
    HeadScreen::Search search;
    screen.begin(x.data(), wanted, search);
    for (std::int64_t piece = 0; piece < screen.pieces(); ++piece) {
      screen.estimate(piece, search);
    }
    if (find) screen.find(search);
    return search;
  }

 private:
  SerialFor serial_;

 public:
  kernels::DenseLinear head;
  HeadScreen screen;
};

TEST(HeadScreen, EveryLogitLiesWithinItsBounds) {
  RandomStream random(3, 1);
  for (const auto [vocab, hidden] : {std::pair{1000, 72}, {515, 300}, {64, 16}}) {
    for (const auto storage : {kernels::Storage::kFp32, kernels::Storage::kFp16}) {
      Rows parts(vocab, hidden, /*half=*/false);
      for (float& value : parts.values) value = normal(random);
      const Screened screened(parts, storage);
      for (const float outlier : {1.0f, 300.0f}) {
        const auto x = state(hidden, screened.head.padded_columns(), outlier, random);
        const auto logits = screened.logits(x);
        const auto search = screened.search(x, {.ids = vocab}, /*find=*/false);
        for (std::int64_t first = 0; first < vocab; first += HeadScreen::kGroup) {
          const auto end = std::min<std::int64_t>(first + HeadScreen::kGroup, vocab);
          const float highest = *std::max_element(logits.begin() + first, logits.begin() + end);
          const auto group = static_cast<std::size_t>(first / HeadScreen::kGroup);
          EXPECT_LE(search.low[group], highest);
          EXPECT_GE(search.high[group], highest);
          EXPECT_LT(search.high[group] - search.low[group], 0.05 * search.norm * std::sqrt(hidden));
        }
      }
    }
  }
}

/// The row is its own copy; all that is unknown comes from rounding x to whole numbers, always
/// down.
TEST(HeadScreen, CountsTheRoundingOfItsInputs) {
  Rows parts(1, 16, /*half=*/false);
  for (float& value : parts.values) value = 127;
  const Screened screened(parts, kernels::Storage::kFp32);
  std::vector<float> x(static_cast<std::size_t>(screened.head.padded_columns()), 2.5f);
  x[0] = 32767;
  const auto search = screened.search(x, {.ids = 1}, /*find=*/false);
  const float logit = screened.logits(x).front();
  EXPECT_EQ(logit - search.estimates.front(), 15 * 127 * 0.5f);
  EXPECT_LE(search.low.front(), logit);
  EXPECT_GE(search.high.front(), logit);
}

TEST(HeadScreen, FindsAllThatIsWantedAndLittleElse) {
  RandomStream random(5, 1);
  constexpr std::int64_t kVocab = 1500, kHidden = 128;
  Rows parts(kVocab, kHidden, /*half=*/false);
  fill_normal(parts.values, /*seed=*/5, /*stream=*/2, 0, 0.0, 1.0);
  const Screened screened(parts, kernels::Storage::kFp16);
  for (const eval::Drawable wanted : {eval::Drawable{.ids = kVocab},
                                      {.ids = kVocab, .highest = 5},
                                      {.ids = 900, .highest = 12},
                                      {.ids = kVocab, .highest = 1, .within = 6}}) {
    ASSERT_TRUE(screened.screen.suits(wanted));
    for (int round = 0; round < 8; ++round) {
      const auto x = state(kHidden, screened.head.padded_columns(), 1, random);
      auto logits = screened.logits(x);
      const auto search = screened.search(x, wanted);
      ASSERT_TRUE(search.found);
      logits.resize(static_cast<std::size_t>(wanted.ids));
      auto sorted = logits;
      std::ranges::sort(sorted, std::greater<>());
      const double least = sorted[static_cast<std::size_t>(wanted.highest - 1)] - wanted.within;
      auto candidates = search.candidates;
      ASSERT_FALSE(candidates.empty());
      std::ranges::sort(candidates);
      EXPECT_TRUE(std::ranges::adjacent_find(candidates) == candidates.end()) << "one twice";
      std::int64_t expected = 0;
      for (std::int32_t id = 0; id < wanted.ids; ++id) {
        if (logits[static_cast<std::size_t>(id)] < least) continue;
        ++expected;
        EXPECT_TRUE(std::ranges::binary_search(candidates, id)) << id;
      }
      EXPECT_LT(candidates.back(), wanted.ids);
      EXPECT_LT(std::ssize(candidates), 10 * expected + 100);
    }
  }
}

/// As many as there are groups, and below zero.
TEST(HeadScreen, FindsTheMostThatSuitsIt) {
  constexpr std::int64_t kVocab = 30 * HeadScreen::kGroup, kHidden = 128;
  RandomStream random(8, 1);
  Rows parts(kVocab, kHidden, /*half=*/false);
  for (std::size_t n = 0; n < parts.values.size(); ++n) {
    parts.values[n] = n % kHidden == 0 ? -4 : normal(random);
  }
  const Screened screened(parts, kernels::Storage::kFp32);
  auto x = state(kHidden, screened.head.padded_columns(), 1, random);
  x[0] = 20;
  EXPECT_TRUE(screened.screen.suits({.ids = kVocab, .highest = 30}));
  EXPECT_FALSE(screened.screen.suits({.ids = kVocab, .highest = 31}));
  EXPECT_FALSE(screened.screen.suits({.ids = kVocab - 64, .highest = 30}));
  auto logits = screened.logits(x);
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::sort(order, std::greater<>(), [&](std::int32_t id) { return logits[id]; });
  ASSERT_LT(logits[order[0]], 0);
  for (const int highest : {1, 8, 30}) {
    const auto search = screened.search(x, {.ids = kVocab, .highest = highest});
    ASSERT_EQ(search.found, highest < 30)
        << "more than an eighth of all rows are as high as every group's highest";
    for (int k = 0; search.found && k < highest; ++k) {
      EXPECT_EQ(std::ranges::count(search.candidates, order[k]), 1) << k;
    }
  }
}

/// Rows that differ by less than their copies can tell.
TEST(HeadScreen, KeepsAllThatItCannotTellApart) {
  Rows parts(2000, 64, /*half=*/false);
  RandomStream random(6, 1);
  for (float& value : parts.values) value = normal(random);
  for (std::int64_t id = 100; id < 110; ++id) {
    for (std::int64_t i = 0; i < 64; ++i) {
      parts.values[static_cast<std::size_t>(id * 64 + i)] = 3 + 1e-6f * static_cast<float>(id);
    }
  }
  const Screened screened(parts, kernels::Storage::kFp32);
  std::vector<float> x(static_cast<std::size_t>(screened.head.padded_columns()), 1.0f);
  const auto search = screened.search(x, {.ids = 2000});
  ASSERT_TRUE(search.found);
  for (std::int32_t id = 100; id < 110; ++id) {
    EXPECT_EQ(std::ranges::count(search.candidates, id), 1) << id;
  }
}

TEST(HeadScreen, FindsNothingWhereItCannotTell) {
  Rows parts(1000, 64, /*half=*/false);  // all rows are alike
  for (float& value : parts.values) value = 1;
  {
    const Screened screened(parts, kernels::Storage::kFp32);
    std::vector<float> x(static_cast<std::size_t>(screened.head.padded_columns()), 1.0f);
    EXPECT_FALSE(screened.search(x, {.ids = 1000}).found);
  }
  parts.values[0] = 2;
  const Screened screened(parts, kernels::Storage::kFp32);
  std::vector<float> x(static_cast<std::size_t>(screened.head.padded_columns()), 1.0f);
  EXPECT_TRUE(screened.search(x, {.ids = 1000}).found);
  for (const float broken : {1e30f, 3e38f, std::numeric_limits<float>::infinity(),
                             std::numeric_limits<float>::quiet_NaN()}) {
    x[5] = broken;
    const auto search = screened.search(x, {.ids = 1000});
    EXPECT_FALSE(search.found) << broken;
    EXPECT_TRUE(search.candidates.empty());
  }
  parts.values[0] = 1e5f;  // no fp16
  const Screened overflown(parts, kernels::Storage::kFp16);
  x[5] = 1;
  EXPECT_FALSE(overflown.search(x, {.ids = 1000}).found);
}

/// Draws with and without a screen along one text.
void expect_same_draws(const SamplerOptions& options, bool screens) {
  config::ModelConfig config = test_model();
  config.vocab_size = 2000;
  PackedModel plain(config, {.head_screen = false, .threads = 1}), screened(config, {.threads = 2});
  const auto all = plain.start_decoding(), some = screened.start_decoding();
  Sampler expected(options), found(options);
  std::vector<std::int32_t> history = some_ids(10, 2000);
  std::vector<float> all_logits(2000), some_logits(2000);
  std::span<const std::int32_t> next = history;
  bool left_out = false;
  for (int t = 0; t < 12; ++t) {
    all->feed(next, all_logits);
    const auto drawable = found.drawable(1990, history.size(), 10);
    ASSERT_EQ(drawable.has_value(), screens);
    drawable ? some->feed_to_draw(next, *drawable, some_logits) : some->feed(next, some_logits);
    left_out = left_out || std::ranges::count(some_logits, -INFINITY) > 1500;
    const auto id = expected.next(std::span(all_logits).first(1990), history, 10);
    ASSERT_EQ(found.next(std::span(some_logits).first(1990), history, 10), id);
    history.push_back(id);
    next = {&history.back(), 1};
  }
  EXPECT_EQ(left_out, screens);
}

TEST(HeadScreen, ChangesNoDraw) {
  for (const kernels::DispatchRow& row : kernels::dispatch_rows()) {
    if (!row.available()) continue;
    kernels::force_level(row.level);
    expect_same_draws({.temperature = 0}, true);
  }
  kernels::force_level(std::nullopt);
  expect_same_draws({.temperature = 0, .repetition_penalty = 1.3}, true);
  expect_same_draws({.temperature = 0, .frequency_penalty = 0.5, .presence_penalty = 1}, true);
  expect_same_draws({.temperature = 0.8, .top_k = 10, .seed = 1}, true);
  expect_same_draws({.temperature = 2, .top_k = 10, .top_p = 0.8, .min_p = 0.1, .seed = 2}, true);
  expect_same_draws({.temperature = 0.5, .min_p = 0.2, .repetition_penalty = 1.1, .seed = 3}, true);
}

TEST(HeadScreen, IsAskedForNoMoreThanThereIs) {
  const auto most = std::numeric_limits<std::int64_t>::max();
  const SamplerOptions all = {.temperature = 1, .top_k = most, .repetition_penalty = 1.1};
  EXPECT_EQ(Sampler(all).drawable(2000, 300, 10)->highest, 2300);
  const SamplerOptions equal = {.temperature = 1e16, .min_p = 1};
  EXPECT_GT(Sampler(equal).drawable(2000, 300, 10)->within, 1) << "exp() rounds to 1";
}

TEST(HeadScreen, IsNoneWhereEveryLogitCounts) {
  expect_same_draws({.temperature = 1}, false);
  expect_same_draws({.temperature = 1, .top_p = 0.9}, false);
  expect_same_draws({.temperature = 0, .repetition_penalty = 0.9}, false);
  expect_same_draws({.temperature = 0, .frequency_penalty = -0.5}, false);
}

/// Several texts at once, each with what it draws from.
TEST(HeadScreen, LeavesOutNothingThatATextWants) {
  config::ModelConfig config = test_model();
  config.vocab_size = 2000;
  Team team(2);
  const auto forward = make_forward(random_parts(config), {}, team);
  std::vector<std::unique_ptr<SequenceCache>> caches;
  std::vector<TokenRow> rows;
  for (const std::int32_t id : some_ids(5, 2000)) {
    caches.push_back(forward->new_cache(1));
    caches.back()->reserve(1);
    rows.push_back({id, 0, caches.back().get()});
  }
  const eval::Drawable wanted[] = {{.ids = 2000},
                                   {.ids = 1500, .highest = 3},
                                   {.ids = 2000, .within = 0.5},
                                   {.ids = 100},
                                   {.ids = 2000}};
  for (const std::int64_t texts : {1, 2, 4, 5}) {
    forward->run(std::span(rows).first(static_cast<std::size_t>(texts)));
    std::vector<float> all(static_cast<std::size_t>(texts) * 2000), some = all;
    forward->logits(0, texts, all.data());
    forward->logits_to_draw(0, std::span(wanted).first(static_cast<std::size_t>(texts)),
                            some.data());
    for (std::int64_t t = 0; t < texts; ++t) {
      const auto expected = std::span<const float>(all).subspan(static_cast<std::size_t>(t) * 2000);
      const auto found = std::span<const float>(some).subspan(static_cast<std::size_t>(t) * 2000);
      std::vector<float> sorted(expected.begin(), expected.begin() + wanted[t].ids);
      std::ranges::sort(sorted, std::greater<>());
      const double least =
          sorted[static_cast<std::size_t>(wanted[t].highest - 1)] - wanted[t].within;
      int left_out = 0;
      for (std::int64_t id = 0; id < 2000; ++id) {
        const auto at = static_cast<std::size_t>(id);
        if (found[at] == -INFINITY && (id >= wanted[t].ids || expected[at] < least)) {
          ++left_out;
        } else {
          EXPECT_EQ(found[at], expected[at]) << "text " << t << " of " << texts << ", token " << id;
        }
      }
      EXPECT_EQ(left_out > 1000, texts <= 4);
    }
  }
}

TEST(HeadScreen, IsPaidForByTheRowsThatNeedNotBeRead) {
  config::ModelConfig config = test_model();
  config.vocab_size = 2000;
  PackedModel plain(config, {.head_screen = false, .threads = 1}), screened(config, {.threads = 1});
  const auto session = screened.start_decoding();
  std::vector<float> logits(2000);
  for (const std::int32_t id : some_ids(20, 2000)) {
    session->feed_to_draw({&id, 1}, {.ids = 2000}, logits);
  }
  const std::uint64_t head = 2000 * 2 * 80;  // fp16, padded columns
  EXPECT_LT(screened.bytes_per_token(), plain.bytes_per_token() - head / 3);
}

}  // namespace
}  // namespace fbi::infer
