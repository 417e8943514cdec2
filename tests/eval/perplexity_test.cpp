#include "fbi/eval/perplexity.h"

#include <cmath>
#include <limits>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "eval/bigram_model.h"
#include "fbi/core/error.h"

namespace fbi::eval {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr std::int64_t kVocab = 7;

BigramModel make_model(std::int64_t max_position = 16) {
  BigramModel model(kVocab, max_position);
  for (std::int64_t p = 0; p < kVocab; ++p) {
    for (std::int64_t n = 0; n < kVocab; ++n) {
      model.logit(p, n) = static_cast<float>(std::sin(1.7 * p + 3.1 * n));
    }
  }
  return model;
}

std::vector<std::int32_t> make_tokens(std::size_t count) {
  std::vector<std::int32_t> tokens(count);
  for (std::size_t i = 0; i < count; ++i) {
    tokens[i] = static_cast<std::int32_t>((i * i + 3 * i) % kVocab);
  }
  return tokens;
}

TEST(PerplexityTest, IsTheExponentialOfTheMeanOfWindowMeans) {
  BigramModel model = make_model();
  const auto tokens = make_tokens(23);  // 4 windows of 5, 3 ids dropped
  double sum = 0;
  for (int w = 0; w < 4; ++w) {
    double window = 0;
    for (int s = 0; s < 4; ++s) {
      window += static_cast<float>(model.nll(tokens[w * 5 + s], tokens[w * 5 + s + 1]));
    }
    sum += window / 4;
  }
  const PerplexityResult result = perplexity(model, stream_windows(tokens, 5));
  EXPECT_EQ(result.mean_nll, sum / 4);
  EXPECT_EQ(result.perplexity, std::exp(sum / 4));
  EXPECT_EQ(result.windows, 4);
  EXPECT_EQ(result.tokens, 20);
  EXPECT_EQ(result.dtype, "fp32");
}

TEST(PerplexityTest, UniformModelHasThePerplexityOfItsVocabulary) {
  BigramModel model(kVocab, 16);
  const auto tokens = make_tokens(40);
  // fp32 log-likelihoods carry a relative rounding of 6e-8.
  EXPECT_NEAR(perplexity(model, stream_windows(tokens, 8)).perplexity, kVocab, 1e-6);
}

TEST(PerplexityTest, WindowsAreIndependent) {
  BigramModel model = make_model();
  // The transition between two windows (5 -> 6) is never counted.
  model.logit(5, 6) = -100;
  const std::vector<std::int32_t> tokens = {0, 1, 5, 6, 1, 2};
  const PerplexityResult result = perplexity(model, stream_windows(tokens, 3));
  EXPECT_LT(result.mean_nll, 10);
}

TEST(PerplexityTest, BatchesCoverAllWindowsAndTheLastMayBeSmaller) {
  BigramModel model = make_model();
  const auto tokens = make_tokens(35);
  PerplexityOptions options;
  options.batch = 3;
  const PerplexityResult batched = perplexity(model, stream_windows(tokens, 5), options);
  EXPECT_THAT(model.calls,
              ::testing::ElementsAre(std::pair(3, 5), std::pair(3, 5), std::pair(1, 5)));
  EXPECT_EQ(batched.mean_nll, perplexity(model, stream_windows(tokens, 5)).mean_nll);
}

TEST(PerplexityTest, ABatchIsNoLargerThanThereAreWindows) {
  BigramModel model = make_model();
  const auto windows = stream_windows(make_tokens(35), 5);
  const double expected = perplexity(model, windows).mean_nll;
  PerplexityOptions options;
  options.batch = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(perplexity(model, windows, options).mean_nll, expected);
  EXPECT_THAT(model.calls.back(), ::testing::Pair(7, 5));
  check_windows(windows, kVocab, 16, options);
}

TEST(PerplexityTest, MaxTokensShortensTheStream) {
  BigramModel model = make_model();
  const auto tokens = make_tokens(50);
  const std::vector<std::int32_t> head(tokens.begin(), tokens.begin() + 30);
  EXPECT_EQ(perplexity(model, stream_windows(tokens, 5, 30)).mean_nll,
            perplexity(model, stream_windows(head, 5)).mean_nll);
}

TEST(PerplexityTest, MaxWindowsLimitsAnySource) {
  BigramModel model = make_model();
  const auto tokens = make_tokens(50);
  PerplexityOptions options;
  options.max_windows = 4;
  EXPECT_EQ(perplexity(model, stream_windows(tokens, 5), options).windows, 4);
  options.max_windows = 400;
  EXPECT_EQ(perplexity(model, stream_windows(tokens, 5), options).windows, 10);
}

TEST(PerplexityTest, ProgressEndsAtTheResult) {
  BigramModel model = make_model();
  const auto tokens = make_tokens(35);
  std::vector<PerplexityProgress> seen;
  PerplexityOptions options;
  options.batch = 2;
  options.on_progress = [&](const PerplexityProgress& progress) { seen.push_back(progress); };
  const PerplexityResult result = perplexity(model, stream_windows(tokens, 5), options);
  ASSERT_EQ(seen.size(), 4u);
  EXPECT_EQ(seen[0].windows_done, 2);
  EXPECT_EQ(seen[3].windows_done, 7);
  EXPECT_EQ(seen[3].windows_total, 7);
  EXPECT_EQ(seen[3].mean_nll, result.mean_nll);
}

/// Bit-identical for every number of parts, although this model's values depend on the rows of a
/// forward.
TEST(PerplexityTest, PartsTogetherEqualTheWhole) {
  BigramModel model = make_model();
  model.set_batch_noise(1e-3f);
  const auto tokens = make_tokens(5 * 23);
  for (const std::int64_t batch : {1, 2, 3, 5, 40}) {
    PerplexityOptions options;
    options.batch = batch;
    const PerplexityResult whole = perplexity(model, stream_windows(tokens, 5), options);
    for (int parts = 1; parts <= 30; ++parts) {
      PerplexityResult joined;
      options.parts = parts;
      for (int part = 0; part < parts; ++part) {
        options.part = part;
        const PerplexityResult result = perplexity(model, stream_windows(tokens, 5), options);
        ASSERT_EQ(result.first_window, std::ssize(joined.window_nll));
        ASSERT_EQ(result.windows_total, 23);
        joined.window_nll.insert(joined.window_nll.end(), result.window_nll.begin(),
                                 result.window_nll.end());
      }
      options.part = 0;
      options.parts = 1;
      summarize(joined, 5);
      ASSERT_EQ(joined.mean_nll, whole.mean_nll) << parts << " parts, batch " << batch;
      ASSERT_EQ(joined.perplexity, whole.perplexity);
      ASSERT_EQ(joined.window_nll, whole.window_nll);
      ASSERT_EQ(joined.windows, 23);
      ASSERT_EQ(joined.tokens, 5 * 23);
    }
  }
}

TEST(PerplexityTest, JsonHasTheAgreedNamesAndRoundTrips) {
  BigramModel model = make_model();
  const auto tokens = make_tokens(35);
  const PerplexityResult result = perplexity(model, stream_windows(tokens, 5));
  const auto json = nlohmann::json::parse(to_json(result));
  EXPECT_EQ(json.size(), 5u);
  EXPECT_EQ(json.at("perplexity").get<double>(), result.perplexity);
  EXPECT_EQ(json.at("mean_nll").get<double>(), result.mean_nll);
  EXPECT_EQ(json.at("windows").get<std::int64_t>(), 7);
  EXPECT_EQ(json.at("tokens").get<std::int64_t>(), 35);
  EXPECT_EQ(json.at("dtype").get<std::string>(), "fp32");
}

TEST(PerplexityTest, WindowLongerThanTheModel) {
  BigramModel model = make_model(/*max_position=*/16);
  const auto tokens = make_tokens(100);
  // 17 ids are 16 inputs and 16 targets, as the rows of a prepared shard are.
  EXPECT_EQ(perplexity(model, stream_windows(tokens, 17)).windows, 5);
  EXPECT_THAT([&] { perplexity(model, stream_windows(tokens, 18)); },
              ThrowsMessage<UsageError>(AllOf(HasSubstr("18 tokens"), HasSubstr("supports 16"))));
}

TEST(PerplexityTest, IdOutsideTheVocabulary) {
  BigramModel model = make_model();
  auto tokens = make_tokens(20);
  tokens[13] = kVocab;
  EXPECT_THAT(
      [&] { perplexity(model, stream_windows(tokens, 5)); },
      ThrowsMessage<DataError>(AllOf(HasSubstr("window 2, position 3"), HasSubstr("token id 7"),
                                     HasSubstr("vocabulary of 7"))));
  tokens[13] = -1;
  EXPECT_THAT([&] { perplexity(model, stream_windows(tokens, 5)); },
              ThrowsMessage<DataError>(HasSubstr("token id -1")));
}

TEST(PerplexityTest, NonFiniteLikelihoodIsNamed) {
  BigramModel model = make_model();
  const std::vector<std::int32_t> tokens = {0, 1, 2, 3, 4, 5};
  model.logit(3, 4) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(
      [&] { perplexity(model, stream_windows(tokens, 3)); },
      ThrowsMessage<DataError>(AllOf(HasSubstr("window 1, prediction 0"), HasSubstr("nan"))));
}

TEST(PerplexityTest, OptionsAreChecked) {
  BigramModel model = make_model();
  const auto tokens = make_tokens(20);
  const WindowSource windows = stream_windows(tokens, 5);
  const auto run = [&](auto change) {
    return [&, change] {
      PerplexityOptions options;
      change(options);
      perplexity(model, windows, options);
    };
  };
  EXPECT_THAT(run([](auto& o) { o.batch = 0; }),
              ThrowsMessage<UsageError>(HasSubstr("batch must be at least 1, found 0")));
  EXPECT_THAT(run([](auto& o) { o.max_windows = -1; }),
              ThrowsMessage<UsageError>(HasSubstr("max_windows")));
  EXPECT_THAT(run([](auto& o) { o.part = 2, o.parts = 2; }),
              ThrowsMessage<UsageError>(HasSubstr("part 2 of 2 parts")));
}

}  // namespace
}  // namespace fbi::eval
