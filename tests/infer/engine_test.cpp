#include <cmath>
#include <set>

#include "infer/engine_fixture.h"

namespace fbi::infer {
namespace {

TEST_F(EngineTest, EachTextIsTheOneThatGenerateGives) {
  std::vector<EngineRequest> requests;
  std::vector<GenerateResult> expected;
  const std::string prompts[] = {"", "abc", std::string("thepromptislongerthanthirtytwoletters"),
                                 std::string(40, 'q'), "bb"};
  for (int n = 0; n < 40; ++n) {  // more than a step has rows
    GenerateOptions options;
    options.max_new_tokens = n % 7 == 0 ? n / 7 : 5 * n;  // 0, 1, 2 and beyond the context too
    options.sampling.temperature = n % 3 == 0 ? 0 : 0.5 * n;
    options.sampling.seed = static_cast<std::uint64_t>(n);
    options.sampling.repetition_penalty = n % 4 == 0 ? 1.3 : 1;
    if (n % 5 == 1) options.stop = {"z", "ee"};
    if (n % 5 == 2) options.eos_ids = {20, 21, 22};
    const std::string& prompt = prompts[n % 5];
    requests.push_back(request(prompt, options));
    expected.push_back(generate(model, words, prompt, options));
  }
  for (const std::int64_t batch : {1, 5, 16, 40}) {
    Engine engine(model, words, {.max_batch = batch, .queue = 40});
    const auto generation = engine.submit(requests);
    const auto texts = fetch(*generation, requests.size());
    std::set<FinishReason> reasons;
    for (std::size_t n = 0; n < requests.size(); ++n) {
      const GenerateResult found = generation->result(n);
      EXPECT_EQ(found.ids, expected[n].ids) << batch << ", " << n;
      EXPECT_EQ(found.text, expected[n].text);
      EXPECT_EQ(texts[n], expected[n].text);
      EXPECT_EQ(found.finish_reason, expected[n].finish_reason);
      EXPECT_EQ(found.prompt_tokens, expected[n].prompt_tokens);
      EXPECT_EQ(found.new_tokens, expected[n].new_tokens);
      reasons.insert(found.finish_reason);
    }
    EXPECT_EQ(reasons.size(), 4u) << "the requests do not end in all ways";
    EXPECT_EQ(engine.load().running, 0);
  }
}

TEST_F(EngineTest, TextsThatShareAPromptAreThoseOfTheirOwn) {
  std::vector<EngineRequest> requests;
  std::vector<GenerateResult> expected;
  const std::string prompts[] = {std::string(45, 'q'), "abc", "", std::string(30, 'c')};
  for (int n = 0; n < 16; ++n) {
    const std::string& prompt = prompts[n / 4];
    GenerateOptions options;
    options.max_new_tokens = n % 4 == 0 ? 1 : 5 * (n % 4);  // who reads it may end first
    options.sampling.seed = static_cast<std::uint64_t>(n);
    requests.push_back(request(prompt, options));
    if (n / 4 == 3) {
      requests.back().score_best = 2;
      requests.back().score_prompt = true;
    }
    expected.push_back(generate(model, words, prompt, options));
  }
  for (const std::int64_t batch : {1, 3, 16}) {
    Engine engine(model, words, {.max_batch = batch, .queue = 16});
    const auto generation = engine.submit(requests);
    fetch(*generation, requests.size());
    for (std::size_t n = 0; n < requests.size(); ++n) {
      const GenerateResult found = generation->result(n);
      EXPECT_EQ(found.ids, expected[n].ids) << batch << ", " << n;
      if (n <= 12) continue;
      const auto first = generation->result(12).scores;
      const bool eos = found.finish_reason == FinishReason::kEos;
      const std::size_t scored = requests[n].prompt.size() - 1;
      ASSERT_EQ(std::ssize(found.scores),
                std::ssize(requests[n].prompt) - 1 + found.new_tokens + eos);
      for (std::size_t t = 0; t < scored; ++t) {
        EXPECT_EQ(found.scores[t].log_probability, first[t].log_probability);
      }
    }
  }
}

TEST_F(EngineTest, PromptsThatBeginAlikeAreReadOnce) {
  const std::string begin(60, 'q');  // 30 tokens
  const std::string prompts[] = {begin + "abc", begin + "xyzx", begin, std::string(40, 'q') + "b",
                                 begin + "abcq"};
  const std::int64_t cached[] = {0, 31, 30, 21, 34};  // with BOS; of its own end one is fed
  for (const std::int64_t batch : {1, 2, 16}) {       // with one, what has ended is used
    std::vector<EngineRequest> requests;
    for (std::uint64_t n = 0; n < 5; ++n) {
      GenerateOptions options = {.max_new_tokens = 4, .sampling = {.seed = n}};
      requests.push_back(request(prompts[n], options));
    }
    Engine engine(model, words, {.max_batch = batch, .queue = 16});
    const auto generation = engine.submit(requests);
    fetch(*generation, requests.size());
    for (std::size_t n = 0; n < requests.size(); ++n) {
      const GenerateResult found = generation->result(n);
      EXPECT_EQ(found.ids, generate(model, words, prompts[n], requests[n].options).ids)
          << batch << ", " << n;
      EXPECT_EQ(found.cached_tokens, cached[n]) << batch << ", " << n;
    }
  }
}

TEST_F(EngineTest, ATextIsContinuedFromWhereItEnded) {
  const std::string prompt(40, 'q');  // 20 tokens
  GenerateOptions options = {.max_new_tokens = 12, .sampling = {}};
  while (generate(model, words, prompt, options).new_tokens < 12) ++options.sampling.seed;
  for (const std::uint64_t room : {std::uint64_t{0}, EngineOptions{}.prefix_cache_bytes}) {
    Engine engine(model, words, {.prefix_cache_bytes = room});
    const auto first = engine.submit({request(prompt, options)});
    fetch(*first, 1);
    EngineRequest next = request(prompt, options);
    const auto ids = first->result(0).ids;
    next.prompt.insert(next.prompt.end(), ids.begin(), ids.end());
    next.prompt.push_back(next.prompt[1]);
    const auto second = engine.submit({next});
    fetch(*second, 1);
    // All but the last that was drawn had been fed.
    EXPECT_EQ(second->result(0).cached_tokens, room > 0 ? 21 + 12 - 1 : 0);
    Engine other(model, words);
    const auto fresh = other.submit({next});
    fetch(*fresh, 1);
    EXPECT_EQ(second->result(0).ids, fresh->result(0).ids);
  }
}

TEST_F(EngineTest, ScoresOfACommonBeginningAreTakenOver) {
  const std::string begin(50, 'q');
  const auto scored = [&](const std::string& end) {
    EngineRequest scored = request(begin + end, {.max_new_tokens = 2, .sampling = {.seed = 1}});
    scored.score_best = 3;
    scored.score_prompt = true;
    return scored;
  };
  const std::vector<EngineRequest> requests = {scored("abc"), scored("bcd"), scored("abc"),
                                               scored("")};
  for (const std::int64_t batch : {1, 16}) {
    Engine engine(model, words, {.max_batch = batch});
    const auto generation = engine.submit(requests);
    fetch(*generation, requests.size());
    for (std::size_t n = 0; n < requests.size(); ++n) {
      Engine alone(model, words);
      const auto expected = alone.submit({requests[n]});
      fetch(*expected, 1);
      EXPECT_EQ(generation->result(n).cached_tokens, (std::array{0, 25, 28, 25}[n])) << n;
      const auto a = generation->result(n).scores, b = expected->result(0).scores;
      ASSERT_EQ(a.size(), b.size()) << n;
      for (std::size_t t = 0; t < a.size(); ++t) {
        EXPECT_EQ(a[t].id, b[t].id) << n << ", " << t;
        EXPECT_EQ(a[t].log_probability, b[t].log_probability) << n << ", " << t;
        EXPECT_EQ(a[t].best, b[t].best) << n << ", " << t;
      }
    }
  }
}

TEST_F(EngineTest, APromptIsReadWhereTheFirstTextNeedsNone) {
  const GenerateOptions options = {.max_new_tokens = 5, .sampling = {.seed = 2}};
  const std::string expected = generate(model, words, "abcdef", options).text;
  Engine engine(model, words, {.max_batch = 4});
  GenerateOptions none = options;
  none.max_new_tokens = 0;
  const auto generation = engine.submit(
      {request("abcdef", none), request("abcdef", options), request("abcdef", options)});
  const auto texts = fetch(*generation, 3);
  EXPECT_EQ(texts, (std::vector<std::string>{"", expected, expected}));
}

TEST_F(EngineTest, SeveralThreadsDrawFromALargeVocabulary) {
  config::ModelConfig config = engine_model();
  config.vocab_size = 9000;
  PackedModel large(config, {.threads = 3});
  std::vector<EngineRequest> requests;
  std::vector<GenerateResult> expected;
  for (std::uint64_t n = 0; n < 8; ++n) {
    const GenerateOptions options = {.max_new_tokens = 10, .sampling = {.seed = n}};
    requests.push_back({prompt_ids(large, words, "abc", true), options, 2, true});
    expected.push_back(generate(large, words, "abc", options));
  }
  Engine engine(large, words);
  const auto generation = engine.submit(requests);
  fetch(*generation, requests.size());
  for (std::size_t n = 0; n < requests.size(); ++n) {
    const GenerateResult found = generation->result(n);
    EXPECT_EQ(found.ids, expected[n].ids);
    const bool eos = found.finish_reason == FinishReason::kEos;  // has a score, too
    ASSERT_EQ(std::ssize(found.scores), 3 + found.new_tokens + eos);
    EXPECT_EQ(found.scores[1].id, requests[n].prompt[2]);
    for (std::size_t t = 0; t < found.ids.size(); ++t) {
      EXPECT_EQ(found.scores[3 + t].id, found.ids[t]);
    }
  }
}

TEST_F(EngineTest, ScoresAreLikelihoodsOfTheModel) {
  for (const std::int64_t length : {1, 5, 40}) {
    std::vector<std::int32_t> prompt = {1};
    while (std::ssize(prompt) < length) prompt.push_back(3 + (7 * prompt.back()) % 50);
    const GenerateOptions options = {.max_new_tokens = 6,
                                     .sampling = {.repetition_penalty = 2, .seed = 4}};
    Engine engine(model, words, {.max_batch = 3});
    const auto generation =
        engine.submit({{prompt, options, 3, true}, {prompt, options}, {prompt, options, 0}});
    fetch(*generation, 3);
    const GenerateResult result = generation->result(0);
    EXPECT_EQ(generation->result(1).ids, result.ids);
    EXPECT_TRUE(generation->result(1).scores.empty());
    EXPECT_EQ(std::ssize(generation->result(2).scores), 6);

    std::vector<std::int32_t> all = prompt;
    all.insert(all.end(), result.ids.begin(), result.ids.end());
    std::vector<float> logits(all.size() * kVocab);
    engine.stop(kLong);
    model.logits(all, 1, std::ssize(all), logits);
    ASSERT_EQ(result.scores.size(), all.size() - 1);
    const auto known = static_cast<std::size_t>(words.vocab_size());
    for (std::size_t t = 0; t + 1 < all.size(); ++t) {
      const std::span<const float> row(&logits[t * kVocab], known);
      double sum = 0;
      for (const float logit : row) sum += std::exp(double{logit});
      const TokenScore& score = result.scores[t];
      EXPECT_EQ(score.id, all[t + 1]);
      EXPECT_NEAR(score.log_probability, row[all[t + 1]] - std::log(sum), 1e-12);
      ASSERT_EQ(score.best.size(), 3u);
      const auto most = std::ranges::max_element(row);
      EXPECT_EQ(score.best[0].first, most - row.begin());
      EXPECT_NEAR(score.best[0].second, *most - std::log(sum), 1e-12);
      EXPECT_GE(score.best[0].second, score.best[1].second);
    }
  }
}

TEST_F(EngineTest, APromptMayBeScoredWithoutAnyNewToken) {
  Engine engine(model, words);
  const auto generation = engine.submit({{{1, 5, 9, 7}, {.max_new_tokens = 0}, 1, true}});
  fetch(*generation, 1);
  EXPECT_EQ(generation->result(0).scores.size(), 3u);
  EXPECT_EQ(generation->result(0).new_tokens, 0);
}

}  // namespace
}  // namespace fbi::infer
