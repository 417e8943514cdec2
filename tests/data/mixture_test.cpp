#include "fbi/data/mixture.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "fbi/core/error.h"
#include "support/expect_error.h"

namespace fbi::data {
namespace {

std::vector<std::int64_t> samples_of(const Mixture& mixture, std::int64_t corpora) {
  std::vector<std::int64_t> samples;
  for (std::int64_t k = 0; k < corpora; ++k) samples.push_back(mixture.samples(k));
  return samples;
}

std::vector<std::int64_t> corpora_of(const Mixture& mixture, std::int64_t first,
                                     std::int64_t count) {
  std::vector<std::int64_t> corpora;
  for (std::int64_t k = 0; k < count; ++k) corpora.push_back(mixture.at(first + k).corpus);
  return corpora;
}

/// Weights with short and long periods, with one large corpus among many small ones, and equal
/// ones.
std::vector<std::vector<double>> many_weights() {
  std::vector<std::vector<double>> all = {{1},        {3, 1},        {0.7, 0.2, 0.1}, {1, 1, 1},
                                          {1, 65535}, {0.123456, 1}, {2, 3, 5, 7}};
  std::vector<double> small(40, 1), growing(25);
  small.push_back(60);
  std::iota(growing.begin(), growing.end(), 1.5);
  all.push_back(small);
  all.push_back(growing);
  return all;
}

TEST(Mixture, PeriodIsTheShortestInWhichSharesAreWhole) {
  EXPECT_THAT(samples_of(Mixture(std::vector<double>{5.0}), 1), ::testing::ElementsAre(1));
  EXPECT_THAT(samples_of(Mixture(std::vector<double>{6.0, 2.0}), 2), ::testing::ElementsAre(3, 1));
  EXPECT_THAT(samples_of(Mixture(std::vector<double>{0.7, 0.2, 0.1}), 3),
              ::testing::ElementsAre(7, 2, 1));
  EXPECT_THAT(samples_of(Mixture(std::vector<double>{2.0 / 3, 1.0 / 3}), 2),
              ::testing::ElementsAre(2, 1));
  EXPECT_THAT(samples_of(Mixture(std::vector<double>{60, 30, 9.5, 0.5}), 4),
              ::testing::ElementsAre(120, 60, 19, 1));
  EXPECT_THAT(samples_of(Mixture(std::vector<double>{1e18, 65535e18}), 2),
              ::testing::ElementsAre(1, 65535));
  EXPECT_THAT(samples_of(Mixture(std::vector<double>{5e-324, 5e-324}), 2),
              ::testing::ElementsAre(1, 1));
}

TEST(Mixture, OtherSharesAreRoundedInTheLongestPeriod) {
  const std::vector<double> weights = {1, std::sqrt(2.0), std::acos(-1.0)};
  const double sum = weights[0] + weights[1] + weights[2];
  const Mixture mixture(weights);
  EXPECT_EQ(mixture.period(), 65536);
  EXPECT_EQ(mixture.samples(0) + mixture.samples(1) + mixture.samples(2), 65536);
  for (std::int64_t k = 0; k < 3; ++k) EXPECT_NEAR(mixture.share(k), weights[k] / sum, 1.0 / 65536);
}

TEST(Mixture, NoCorpusIsEverASampleAheadOrBehind) {
  for (const auto& weights : many_weights()) {
    const Mixture mixture(weights);
    const std::int64_t period = mixture.period();
    std::vector<std::int64_t> taken(weights.size());
    for (std::int64_t k = 0; k < period + 100; ++k) {
      const auto [corpus, position] = mixture.at(k);
      ASSERT_EQ(position, taken[corpus]++);
      for (std::int64_t c = 0; c < std::ssize(taken); ++c)
        ASSERT_LT(std::abs(taken[c] * period - (k + 1) * mixture.samples(c)), period)
            << "corpus " << c << " after " << k + 1 << " samples";
      if (k + 1 == period) EXPECT_EQ(taken, samples_of(mixture, std::ssize(weights)));
    }
  }
}

TEST(Mixture, FarPositionsAreReachedAtOnce) {
  const Mixture mixture(std::vector<double>{0.7, 0.2, 0.1});
  const std::int64_t periods = 400'000'000'000'000;
  for (std::int64_t k = 0; k < 10; ++k) {
    const auto near = mixture.at(k), far = mixture.at(periods * 10 + k);
    EXPECT_EQ(far.corpus, near.corpus);
    EXPECT_EQ(far.position, periods * mixture.samples(near.corpus) + near.position);
  }
}

TEST(Mixture, OneCorpusIsReadAsItIs) {
  const Mixture mixture(std::vector<double>{0.3});
  for (const std::int64_t position : {0, 1, 77, 1'000'000'007})
    EXPECT_EQ(mixture.at(position), (Mixture::Place{0, position}));
}

// The order is part of the format of a run, as SampleOrder is.
TEST(Mixture, StaysAsItWasFirstReleased) {
  EXPECT_THAT(corpora_of(Mixture(std::vector<double>{0.5, 0.3, 0.2}), 0, 12),
              ::testing::ElementsAre(0, 1, 0, 2, 0, 1, 0, 1, 0, 2, 0, 1));
  EXPECT_THAT(corpora_of(Mixture(std::vector<double>{1.0, std::sqrt(2.0)}), 65530, 12),
              ::testing::ElementsAre(0, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 1));
}

TEST(Mixture, SharesTooSmallAndNegativePositionsAreErrors) {
  test::expect_error<UsageError>(
      [] {
        Mixture(std::vector<double>{1, 1e-6});
      },
      "data.weights[1] = 1e-06: expected a share of at least one in "
      "65536 samples, found 9.99999e-07",
      "raise it, or take the entry out of data.paths");
  test::expect_error<UsageError>([] { Mixture(std::vector<double>{3.0, 1.0}).at(-1); }, "-1");
}

}  // namespace
}  // namespace fbi::data
