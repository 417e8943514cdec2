#include "fbi/infer/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "eval/bigram_model.h"
#include "infer/word_tokenizer.h"
#include "support/expect_error.h"

namespace fbi::infer {
namespace {

using ::fbi::test::expect_error;
using ::testing::ElementsAre;

/// A model that says what follows each word, with certainty.
class Chain {
 public:
  explicit Chain(std::vector<std::string> words, std::int64_t max_position = 64,
                 std::int64_t padded_vocab = 0)
      : tokenizer(words), model(std::max(padded_vocab, tokenizer.vocab_size()), max_position) {}

  std::int32_t id(const std::string& word) const {
    for (std::int32_t i = 0; i < tokenizer.vocab_size(); ++i) {
      if (tokenizer.piece(i) == word) return i;
    }
    throw std::logic_error("no word " + word);
  }
  void follow(const std::string& before, const std::string& after) {
    model.logit(id(before), id(after)) = 50;
  }
  /// words[0] -> words[1] -> …
  void follow_all(const std::vector<std::string>& words) {
    for (std::size_t i = 1; i < words.size(); ++i) follow(words[i - 1], words[i]);
  }

  GenerateResult run(const std::string& prompt, GenerateOptions options = {}) {
    options.sampling.temperature = 0;
    pieces.clear();
    return generate(model, tokenizer, prompt, options,
                    [this](std::string_view piece) { pieces.emplace_back(piece); });
  }

  WordTokenizer tokenizer;
  eval::BigramModel model;
  std::vector<std::string> pieces;  ///< what on_text received
};

Chain story() {
  Chain chain({"Once", " upon", " a", " time", ".", " Ünd", "€"});
  chain.follow_all({"<s>", "Once", " upon", " a", " time", ".", "</s>"});
  return chain;
}

TEST(GenerateTest, ContinuesThePromptUntilEos) {
  Chain chain = story();
  const GenerateResult result = chain.run("Once");
  EXPECT_EQ(result.text, " upon a time.");
  EXPECT_THAT(result.ids, ElementsAre(4, 5, 6, 7));
  EXPECT_EQ(result.finish_reason, FinishReason::kEos);
  EXPECT_EQ(result.prompt_tokens, 2);  // BOS and one word
  EXPECT_EQ(result.new_tokens, 4);
  EXPECT_THAT(chain.pieces, ElementsAre(" upon", " a", " time", "."));
}

TEST(GenerateTest, AnEmptyPromptStartsFromBos) {
  Chain chain = story();
  EXPECT_EQ(chain.run("").text, "Once upon a time.");
  expect_error<UsageError>([&] { chain.run("", {.add_bos = false}); }, "empty prompt", "BOS");
  EXPECT_EQ(chain.run("Once", {.add_bos = false}).prompt_tokens, 1);
}

TEST(GenerateTest, StopsAtMaxNewTokens) {
  Chain chain = story();
  const GenerateResult result = chain.run("Once", {.max_new_tokens = 2});
  EXPECT_EQ(result.text, " upon a");
  EXPECT_EQ(result.finish_reason, FinishReason::kLength);
  const GenerateResult nothing = chain.run("Once", {.max_new_tokens = 0});
  EXPECT_EQ(nothing.text, "");
  EXPECT_EQ(nothing.new_tokens, 0);
  EXPECT_EQ(nothing.finish_reason, FinishReason::kLength);
  expect_error<UsageError>([&] { chain.run("Once", {.max_new_tokens = -1}); }, "found -1");
}

TEST(GenerateTest, StopsAtTheEndOfTheContext) {
  Chain chain({"a"}, /*max_position=*/8);
  chain.follow("a", "a");
  const GenerateResult result = chain.run("aaa", {.max_new_tokens = 100});
  EXPECT_EQ(result.finish_reason, FinishReason::kContext);
  EXPECT_EQ(result.prompt_tokens + result.new_tokens, 8);
  EXPECT_EQ(chain.run("aaaaaa").new_tokens, 1);
  expect_error<ContextError>([&] { chain.run("aaaaaaa"); }, "8 tokens", "context of 8");
}

TEST(GenerateTest, FurtherEosIdsEndTheText) {
  Chain chain = story();
  const GenerateResult result = chain.run("Once", {.eos_ids = {chain.id(" time")}});
  EXPECT_EQ(result.text, " upon a");
  EXPECT_EQ(result.finish_reason, FinishReason::kEos);
}

TEST(GenerateTest, StopStringEndsTheTextBeforeIt) {
  Chain chain = story();
  const GenerateResult result = chain.run("Once", {.stop = {"never", " time"}});
  EXPECT_EQ(result.text, " upon a");
  EXPECT_EQ(result.finish_reason, FinishReason::kStop);
  EXPECT_EQ(result.new_tokens, 3);  // the token that completed the stop string counts
}

TEST(GenerateTest, StopStringMaySpanTokens) {
  Chain chain = story();
  const GenerateResult result = chain.run("Once", {.stop = {"n a t"}});
  EXPECT_EQ(result.text, " upo");
  EXPECT_EQ(result.finish_reason, FinishReason::kStop);
  EXPECT_THAT(chain.pieces, ElementsAre(" upo"));  // nothing of the stop string was ever shown
}

TEST(GenerateTest, TheFirstCompleteStopStringWins) {
  Chain chain = story();
  EXPECT_EQ(chain.run("Once", {.stop = {"time", "ti", " a time"}}).text, " upon a ");
  EXPECT_EQ(chain.run("Once", {.stop = {"on a t", "upon"}}).text, " ");
  EXPECT_EQ(chain.run("Once", {.stop = {"time", "a time", "me"}}).text, " upon ");
}

TEST(GenerateTest, TextHeldBackForAStopStringIsNotLost) {
  Chain chain = story();
  const GenerateResult result = chain.run("Once", {.stop = {" time.x", "n b"}});
  EXPECT_EQ(result.text, " upon a time.");
  EXPECT_EQ(result.finish_reason, FinishReason::kEos);
  EXPECT_THAT(chain.pieces, ElementsAre(" upo", "n a", " time."));
}

TEST(GenerateTest, BadStopStrings) {
  Chain chain = story();
  expect_error<UsageError>([&] { chain.run("Once", {.stop = {""}}); }, "stop string is empty");
  expect_error<UsageError>([&] { chain.run("Once", {.stop = {"\xA4x"}}); }, "inside a UTF-8");
}

TEST(GenerateTest, IncompleteCharacterIsReplacedAtTheEnd) {
  Chain chain({"go", "\xE2"});
  chain.follow_all({"<s>", "go", "\xE2", "</s>"});
  const GenerateResult result = chain.run("");
  EXPECT_EQ(result.text, "go\uFFFD");
  EXPECT_THAT(chain.pieces, ElementsAre("go", "\uFFFD"));
  EXPECT_EQ(chain.run("", {.stop = {"\uFFFD"}}).finish_reason, FinishReason::kStop);
  // Of the prompt's last character nothing is new.
  EXPECT_EQ(chain.run("go\xE2", {.max_new_tokens = 0}).text, "");
  EXPECT_EQ(chain.run("go\xE2").text, "");
}

TEST(GenerateTest, PiecesAreTheText) {
  Chain chain({"ä", "€", "b"});
  for (std::int64_t p = 0; p < 6; ++p) chain.model.logit(p, 2) = -50;  // no EOS
  GenerateOptions options = {.max_new_tokens = 50, .stop = {"€€€€", "bäb€"}};
  options.sampling.seed = 11;
  std::string pieces;
  const GenerateResult result = generate(chain.model, chain.tokenizer, "b", options,
                                         [&](std::string_view piece) { pieces += piece; });
  EXPECT_EQ(pieces, result.text);
  // Same seed, same text.
  EXPECT_EQ(result.text, generate(chain.model, chain.tokenizer, "b", options).text);
  options.sampling.seed = 12;
  EXPECT_NE(result.text, generate(chain.model, chain.tokenizer, "b", options).text);
}

TEST(GenerateTest, PaddingOfTheModelsVocabularyIsNeverDrawn) {
  Chain chain({"a", "b"}, 64, /*padded_vocab=*/16);
  chain.follow_all({"<s>", "a", "b", "</s>"});
  for (std::int64_t p = 0; p < 16; ++p) chain.model.logit(p, 12) = 90;
  EXPECT_EQ(chain.run("").text, "ab");
}

TEST(GenerateTest, TokenizerOfAnotherModel) {
  Chain chain({"a", "b", "c"});
  eval::BigramModel small(5, 64);
  expect_error<UsageError>([&] { generate(small, chain.tokenizer, "abc", {}); }, "token id 5",
                           "vocabulary of 5", "words.model");
}

TEST(GenerateTest, AnExceptionOfTheCallbackEndsIt) {
  Chain chain = story();
  int calls = 0;
  const auto interrupt = [&](std::string_view) {
    if (++calls == 2) throw std::runtime_error("enough");
  };
  GenerateOptions options;
  options.sampling.temperature = 0;
  EXPECT_THROW(generate(chain.model, chain.tokenizer, "Once", options, interrupt),
               std::runtime_error);
  EXPECT_EQ(calls, 2);
}

TEST(GenerateTest, SamplingOptionsAreChecked) {
  Chain chain = story();
  GenerateOptions options;
  options.sampling.top_p = 2;
  expect_error<UsageError>([&] { generate(chain.model, chain.tokenizer, "Once", options); },
                           "top_p", "found 2");
}

TEST(GenerateTest, Json) {
  Chain chain = story();
  const GenerateResult result = chain.run("Once", {.stop = {" time"}});
  const auto json = nlohmann::json::parse(to_json(result));
  EXPECT_EQ(json.at("text"), " upon a");
  EXPECT_EQ(json.at("ids"), nlohmann::json({4, 5, 6}));
  EXPECT_EQ(json.at("finish_reason"), "stop");
  EXPECT_EQ(json.at("prompt_tokens"), 2);
  EXPECT_EQ(json.at("new_tokens"), 3);
  EXPECT_TRUE(json.at("prompt_seconds").is_number());
  EXPECT_TRUE(json.at("generate_seconds").is_number());
  EXPECT_EQ(json.size(), 7u);
  EXPECT_EQ(to_string(FinishReason::kContext), "context");
}

}  // namespace
}  // namespace fbi::infer
