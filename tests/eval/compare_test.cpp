#include "fbi/eval/compare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "eval/bigram_model.h"
#include "fbi/core/error.h"
#include "support/expect_error.h"

namespace fbi::eval {
namespace {

using ::fbi::test::expect_error;

TEST(CompareLogitsTest, AModelEqualsItself) {
  BigramModel model(5, 8);
  model.logit(1, 2) = 3;
  const LogitComparison result =
      compare_logits(model, model, stream_windows({1, 2, 3, 4, 1, 0}, 3));
  EXPECT_EQ(result.max_abs_difference, 0);
  EXPECT_EQ(result.mean_kl, 0);
  EXPECT_EQ(result.max_kl, 0);
  EXPECT_EQ(result.same_top, 1);
  EXPECT_EQ(result.positions, 6);
}

TEST(CompareLogitsTest, DistancesByHand) {
  BigramModel reference(2, 8), candidate(2, 8);
  // After token 1: (1/2, 1/2) against (3/4, 1/4); after token 0 both are uniform.
  candidate.logit(1, 0) = static_cast<float>(std::log(3.0));
  const double kl = 0.5 * std::log(0.5 / 0.75) + 0.5 * std::log(0.5 / 0.25);
  const LogitComparison result =
      compare_logits(reference, candidate, stream_windows({1, 0, 0, 0}, 2));
  EXPECT_NEAR(result.max_abs_difference, std::log(3.0), 1e-7);  // one fp32 logit
  EXPECT_NEAR(result.max_kl, kl, 1e-7);
  EXPECT_NEAR(result.mean_kl, kl / 4, 1e-7);
  EXPECT_EQ(result.same_top, 1);  // ties go to the first token
  candidate.logit(1, 0) = -1;
  EXPECT_EQ(compare_logits(reference, candidate, stream_windows({1, 0, 0, 0}, 2)).same_top, 0.75);
}

TEST(CompareLogitsTest, AConstantAddedToAllLogitsIsNoDivergence) {
  BigramModel reference(3, 8), candidate(3, 8);
  for (std::int64_t p = 0; p < 3; ++p) {
    for (std::int64_t n = 0; n < 3; ++n) candidate.logit(p, n) = 8;
  }
  const LogitComparison result = compare_logits(reference, candidate, stream_windows({0, 1, 2}, 3));
  EXPECT_EQ(result.max_abs_difference, 8);
  EXPECT_NEAR(result.max_kl, 0, 1e-12);  // rounding of a few double operations
}

TEST(CompareLogitsTest, KeptLogitsTellTheSameOfModelsThatAreGone) {
  const WindowSource windows = stream_windows({1, 0, 2, 1, 1, 0}, 3);
  BigramModel reference(5, 8), candidate(5, 8);
  candidate.logit(1, 0) = 3;
  candidate.logit(2, 4) = -1;
  const LogitComparison expected = compare_logits(reference, candidate, windows);
  const LogitComparison found =
      compare_logits(keep_logits(reference, windows), keep_logits(candidate, windows));
  EXPECT_GT(found.mean_kl, 0);
  EXPECT_EQ(found.mean_kl, expected.mean_kl);
  EXPECT_EQ(found.max_kl, expected.max_kl);
  EXPECT_EQ(found.max_abs_difference, expected.max_abs_difference);
  EXPECT_EQ(found.same_top, expected.same_top);
  EXPECT_EQ(found.positions, 6);
}

TEST(CompareLogitsTest, KeptLogitsThatDoNotFit) {
  const WindowSource windows = stream_windows({0, 1, 2}, 3), shorter = stream_windows({0, 1, 2}, 2);
  BigramModel model(5, 8), other(6, 8), small(5, 2), broken(5, 8);
  const KeptLogits kept = keep_logits(model, windows);
  expect_error<UsageError>([&] { keep_logits(small, windows); }, "1 to 2 tokens", "found 3");
  expect_error<UsageError>([&] { compare_logits(kept, keep_logits(other, windows)); },
                           "of 5 and 6");
  expect_error<UsageError>([&] { compare_logits(kept, keep_logits(model, shorter)); },
                           "15 and 10 numbers", "same windows");
  broken.logit(1, 1) = std::numeric_limits<float>::quiet_NaN();
  expect_error<DataError>([&] { compare_logits(kept, keep_logits(broken, windows)); },
                          "compared model", "nan");
  expect_error<DataError>([&] { compare_logits(keep_logits(broken, windows), kept); },
                          "reference model", "nan");
}

TEST(CompareLogitsTest, ModelsThatDoNotFit) {
  BigramModel model(5, 8), other(6, 8), small(5, 2);
  const WindowSource windows = stream_windows({0, 1, 2}, 3);
  expect_error<UsageError>([&] { compare_logits(model, other, windows); }, "of 5 and 6");
  expect_error<UsageError>([&] { compare_logits(model, small, windows); }, "1 to 2 tokens",
                           "found 3");
  model.logit(1, 1) = std::numeric_limits<float>::quiet_NaN();
  BigramModel good(5, 8);
  expect_error<DataError>([&] { compare_logits(good, model, windows); }, "compared model", "nan");
}

}  // namespace
}  // namespace fbi::eval
