#include "fbi/infer/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "fbi/core/error.h"
#include "support/expect_error.h"

namespace fbi::infer {
namespace {

using ::fbi::test::expect_error;
using ::testing::ElementsAre;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> log_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

/// Tokens that 2,000 draws produce; every probability in these tests is far above 1/2000.
std::set<std::int32_t> support(const SamplerOptions& options, const std::vector<float>& logits) {
  Sampler sampler(options);
  std::set<std::int32_t> ids;
  for (int i = 0; i < 2000; ++i) ids.insert(sampler.next(logits));
  return ids;
}

TEST(SamplerTest, TemperatureZeroTakesTheMostLikely) {
  Sampler sampler({.temperature = 0, .top_k = 3, .top_p = 0.1});
  EXPECT_EQ(sampler.next(std::vector<float>{1, 5, -2, 3}), 1);
}

TEST(SamplerTest, GreedyTiesGoToTheLowestId) {
  Sampler sampler({.temperature = 0});
  EXPECT_EQ(sampler.next(std::vector<float>{1, 4, 4, 4}), 1);
  EXPECT_EQ(sampler.next(std::vector<float>{-0.0f, 0.0f}), 0);
}

TEST(SamplerTest, DrawsFollowTheSoftmax) {
  const std::vector<double> expected = {0.1, 0.2, 0.3, 0.4};
  Sampler sampler({.seed = 3});
  std::map<std::int32_t, int> counts;
  constexpr int kDraws = 100000;
  for (int i = 0; i < kDraws; ++i) ++counts[sampler.next(log_of(expected))];
  for (int id = 0; id < 4; ++id) {
    // Five standard deviations of a binomial count; the seed is fixed, so this never flickers.
    const double deviation = std::sqrt(kDraws * expected[id] * (1 - expected[id]));
    EXPECT_NEAR(counts[id], kDraws * expected[id], 5 * deviation) << id;
  }
}

TEST(SamplerTest, TemperatureSharpensAndFlattens) {
  // Probabilities 1/3 and 2/3 at temperature 1 become 1/17 and 16/17 at 1/4.
  const std::vector<float> logits = log_of({1, 2});
  const auto share = [&](double temperature) {
    Sampler sampler({.temperature = temperature, .seed = 5});
    int first = 0;
    for (int i = 0; i < 20000; ++i) first += sampler.next(logits) == 0;
    return first / 20000.0;
  };
  EXPECT_NEAR(share(0.25), 1.0 / 17, 0.01);  // 5 deviations are 0.008
  EXPECT_NEAR(share(1), 1.0 / 3, 0.02);
  EXPECT_NEAR(share(1000), 0.5, 0.02);
  EXPECT_EQ(share(1e-300), 0);
}

TEST(SamplerTest, TopKKeepsTheMostLikelyAndBreaksTiesById) {
  const std::vector<float> logits = log_of({0.1, 0.3, 0.3, 0.3});
  EXPECT_THAT(support({.top_k = 1}, logits), ElementsAre(1));
  EXPECT_THAT(support({.top_k = 2}, logits), ElementsAre(1, 2));
  EXPECT_THAT(support({.top_k = 4}, logits), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(support({.top_k = 100}, logits), ElementsAre(0, 1, 2, 3));
}

TEST(SamplerTest, TopPKeepsTheFewestThatReachIt) {
  const std::vector<float> logits = log_of({0.05, 0.5, 0.15, 0.3});
  EXPECT_THAT(support({.top_p = 1e-9}, logits), ElementsAre(1));
  EXPECT_THAT(support({.top_p = 0.49}, logits), ElementsAre(1));
  EXPECT_THAT(support({.top_p = 0.51}, logits), ElementsAre(1, 3));
  EXPECT_THAT(support({.top_p = 0.81}, logits), ElementsAre(1, 2, 3));
  EXPECT_THAT(support({.top_p = 0.96}, logits), ElementsAre(0, 1, 2, 3));
}

TEST(SamplerTest, TopPCountsWhatTopKLeaves) {
  // Of 0.5 and 0.3 alone the first has 0.625, so it reaches 0.6 by itself.
  const std::vector<float> logits = log_of({0.5, 0.3, 0.15, 0.05});
  EXPECT_THAT(support({.top_k = 2, .top_p = 0.6}, logits), ElementsAre(0));
  EXPECT_THAT(support({.top_k = 2, .top_p = 0.65}, logits), ElementsAre(0, 1));
}

TEST(SamplerTest, MinPIsRelativeToTheMostLikely) {
  const std::vector<float> logits = log_of({0.05, 0.5, 0.15, 0.3});
  EXPECT_THAT(support({.min_p = 1}, logits), ElementsAre(1));
  EXPECT_THAT(support({.min_p = 0.59}, logits), ElementsAre(1, 3));
  EXPECT_THAT(support({.min_p = 0.29}, logits), ElementsAre(1, 2, 3));
  EXPECT_THAT(support({.top_k = 3, .min_p = 0.09}, logits), ElementsAre(1, 2, 3));
  EXPECT_THAT(support({.top_p = 0.99, .min_p = 0.59}, logits), ElementsAre(1, 3));
}

TEST(SamplerTest, FiltersThatKeepEverythingDrawTheSameDistribution) {
  const std::vector<float> logits = log_of({0.2, 0.5, 0.3});
  Sampler sampler({.top_k = 3, .seed = 9});
  std::map<std::int32_t, int> counts;
  for (int i = 0; i < 20000; ++i) ++counts[sampler.next(logits)];
  EXPECT_NEAR(counts[0] / 20000.0, 0.2, 0.02);  // 5 deviations are 0.018
  EXPECT_NEAR(counts[1] / 20000.0, 0.5, 0.02);
}

TEST(SamplerTest, RepetitionPenaltyLowersEverySeenTokenOnce) {
  Sampler sampler({.temperature = 0, .repetition_penalty = 2});
  const std::vector<float> logits = {1.9f, 4.0f, -1.0f};
  EXPECT_EQ(sampler.next(logits), 1);
  // 4 / 2 = 2 stays above 1.9, however often the token was seen.
  EXPECT_EQ(sampler.next(logits, std::vector<std::int32_t>{1, 1, 1}), 1);
  EXPECT_EQ(sampler.next(std::vector<float>{2.1f, 4.0f}, std::vector<std::int32_t>{1}), 0);
  // Negative logits move down, too.
  EXPECT_EQ(sampler.next(std::vector<float>{-1.0f, -1.5f}, std::vector<std::int32_t>{0}), 1);
  // Ids of a larger vocabulary are no reason to fail.
  EXPECT_EQ(sampler.next(logits, std::vector<std::int32_t>{99, -1}), 1);
}

TEST(SamplerTest, FrequencyAndPresenceCountWhatWasDrawn) {
  const std::vector<float> logits = {3.0f, 2.0f, 1.0f};
  const auto best = [&](const SamplerOptions& options, std::vector<std::int32_t> history,
                        std::size_t given) {
    return Sampler(options).next(logits, history, given);
  };
  const SamplerOptions frequency = {.temperature = 0, .frequency_penalty = 0.6};
  EXPECT_EQ(best(frequency, {0}, 0), 0);     // 2.4
  EXPECT_EQ(best(frequency, {0, 0}, 0), 1);  // 1.8
  EXPECT_EQ(best(frequency, {0, 0}, 1), 0);  // one of them is the prompt's
  EXPECT_EQ(best(frequency, {0, 1, 0, 1, 0, 1, 0}, 0), 2);
  const SamplerOptions presence = {.temperature = 0, .presence_penalty = 1.5};
  EXPECT_EQ(best(presence, {0}, 0), 1);
  EXPECT_EQ(best(presence, {0, 1, 1, 1, 99, -1}, 0), 0);  // 1.5, 0.5 and 1
  EXPECT_EQ(best({.temperature = 0, .frequency_penalty = -1}, {1, 1}, 0), 1);
}

TEST(SamplerTest, IsAFunctionOfTheSeed) {
  std::vector<float> logits(1000);
  for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = std::sin(static_cast<float>(i));
  const auto draws = [&](std::uint64_t seed) {
    Sampler sampler({.top_p = 0.9, .seed = seed});
    std::vector<std::int32_t> ids;
    for (int i = 0; i < 50; ++i) ids.push_back(sampler.next(logits));
    return ids;
  };
  EXPECT_EQ(draws(1), draws(1));
  EXPECT_NE(draws(1), draws(2));
}

TEST(SamplerTest, MinusInfinityExcludesAToken) {
  const std::vector<float> logits = {-kInfinity, 1, 1, -kInfinity};
  EXPECT_THAT(support({}, logits), ElementsAre(1, 2));
  EXPECT_THAT(support({.top_k = 4}, logits), ElementsAre(1, 2));
  EXPECT_THAT(support({.top_p = 0.9999}, logits), ElementsAre(1, 2));
}

TEST(SamplerTest, BrokenLogitsAreNamed) {
  Sampler sampler({});
  expect_error<DataError>([&] { sampler.next(std::vector<float>{0, 1, NAN}); }, "token 2", "nan");
  expect_error<DataError>(
      [&] {
        sampler.next(std::vector<float>{kInfinity, 1});
      },
      "token 0", "inf");
  expect_error<DataError>([&] { sampler.next(std::vector<float>{-kInfinity}); }, "-infinity");
  expect_error<DataError>([&] { sampler.next({}); }, "excludes every token");
}

TEST(SamplerTest, OptionsOutOfRange) {
  const auto make = [](SamplerOptions options) { return [options] { Sampler sampler(options); }; };
  expect_error<UsageError>(make({.temperature = -1}), "temperature", ">= 0", "found -1");
  expect_error<UsageError>(make({.temperature = NAN}), "temperature", "found nan");
  expect_error<UsageError>(make({.temperature = INFINITY}), "temperature", "found inf");
  expect_error<UsageError>(make({.top_k = -5}), "top_k", "found -5");
  expect_error<UsageError>(make({.top_p = 0}), "top_p", "(0, 1]", "found 0");
  expect_error<UsageError>(make({.top_p = 1.5}), "top_p", "found 1.5");
  expect_error<UsageError>(make({.min_p = -0.1}), "min_p", "[0, 1]", "found -0.1");
  expect_error<UsageError>(make({.min_p = NAN}), "min_p", "found nan");
  for (const double penalty : {0.0, 1e-308, 0.009, 101.0, double{NAN}, double{INFINITY}}) {
    expect_error<UsageError>(make({.repetition_penalty = penalty}), "repetition_penalty",
                             "[0.01, 100]");
  }
  expect_error<UsageError>(make({.frequency_penalty = 2.1}), "frequency_penalty", "[-2, 2]");
  expect_error<UsageError>(make({.presence_penalty = -3}), "presence_penalty", "found -3");
  expect_error<UsageError>(make({.presence_penalty = NAN}), "presence_penalty", "found nan");
}

}  // namespace
}  // namespace fbi::infer
