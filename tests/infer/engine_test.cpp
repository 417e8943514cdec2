#include "fbi/infer/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "exporter/memory_source.h"
#include "fbi/core/file.h"
#include "fbi/exporter/packed.h"
#include "infer/word_tokenizer.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi::infer {
namespace {

using namespace std::chrono_literals;
using test::expect_error;

constexpr auto kLong = 60s;  // nothing here takes so long
constexpr std::int64_t kVocab = 61;

config::ModelConfig engine_model() {
  config::ModelConfig model = exporter::small_model();
  model.vocab_size = kVocab;
  model.max_position_embeddings = 64;
  return model;
}

/// Words "a" to "zz"; fewer than the model has tokens. With the gate closed, nothing gets over the
/// end of a text.
class Words final : public text::Tokenizer {
 public:
  Words() : words_(letters()) {}

  void close() {
    const std::lock_guard lock(mutex_);
    open_ = false;
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  /// Returns when somebody stands before the gate.
  void wait_for_somebody() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, kLong, [this] { return standing_ > 0; }));
  }

  std::vector<std::int32_t> encode(std::string_view text) const override {
    return words_.encode(text);
  }
  std::unique_ptr<text::StreamDecoder> start_decoding() const override {
    return std::make_unique<Decoder>(*this);
  }
  std::int64_t vocab_size() const override { return words_.vocab_size(); }
  std::int32_t bos_id() const override { return words_.bos_id(); }
  std::int32_t eos_id() const override { return words_.eos_id(); }
  std::optional<std::int32_t> unk_id() const override { return words_.unk_id(); }
  std::optional<std::int32_t> pad_id() const override { return words_.pad_id(); }
  const std::string& piece(std::int32_t id) const override { return words_.piece(id); }
  float score(std::int32_t id) const override { return words_.score(id); }
  text::PieceType type(std::int32_t id) const override { return words_.type(id); }
  bool adds_space_prefix() const override { return false; }
  std::string why_no_tokenizer_json() const override { return words_.why_no_tokenizer_json(); }
  const std::filesystem::path& path() const override { return words_.path(); }
  const std::string& file_bytes() const override { return words_.file_bytes(); }
  const std::string& file_hash() const override { return words_.file_hash(); }

 private:
  class Decoder final : public text::StreamDecoder {
   public:
    explicit Decoder(const Words& owner) : owner_(owner), inner_(owner.words_.start_decoding()) {}
    std::string feed(std::int32_t id) override { return inner_->feed(id); }
    std::string finish() override {
      std::unique_lock lock(owner_.mutex_);
      ++owner_.standing_;
      owner_.changed_.notify_all();
      owner_.changed_.wait_for(lock, kLong, [this] { return owner_.open_; });
      --owner_.standing_;
      return inner_->finish();
    }

   private:
    const Words& owner_;
    std::unique_ptr<text::StreamDecoder> inner_;
  };

  static std::vector<std::string> letters() {
    std::vector<std::string> words = {"\xE2"};
    for (char c = 'a'; c <= 'z'; ++c)
      words.insert(words.end(), {std::string(1, c), std::string(2, c)});
    return words;
  }

  WordTokenizer words_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  mutable int standing_ = 0;
  bool open_ = true;
};

class EngineTest : public ::testing::Test {
 protected:
  EngineRequest request(const std::string& prompt, GenerateOptions options) {
    return {prompt_ids(model, words, prompt, true), std::move(options)};
  }

  /// Fetches all news until the end; the texts by index.
  static std::vector<std::string> fetch(Generation& generation, std::size_t count) {
    std::vector<std::string> texts(count);
    while (!generation.ended()) {
      const auto all = generation.wait(kLong);
      EXPECT_FALSE(all.empty());
      if (all.empty()) break;
      for (const auto& news : all) texts[news.index] += news.text;
    }
    return texts;
  }

  PackedModel model{engine_model(), {.threads = 2}};
  Words words;
};

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

TEST_F(EngineTest, ManyThreadsMayAsk) {
  const GenerateOptions options = {.max_new_tokens = 8, .sampling = {.seed = 3}};
  const std::string expected = generate(model, words, "hello", options).text;
  Engine engine(model, words, {.max_batch = 4, .queue = 100});
  std::vector<std::thread> clients;
  for (int n = 0; n < 8; ++n) {
    clients.emplace_back([&] {
      for (int k = 0; k < 5; ++k) {
        const auto generation = engine.submit({request("hello", options)});
        EXPECT_EQ(fetch(*generation, 1)[0], expected);
      }
    });
  }
  for (std::thread& client : clients) client.join();
}

TEST_F(EngineTest, FirstComeFirstServed) {
  Engine engine(model, words, {.max_batch = 1, .queue = 3});
  words.close();
  const auto first = engine.submit({request("a", {.max_new_tokens = 3})});
  const auto second = engine.submit({request("b", {.max_new_tokens = 1})});
  const auto third = engine.submit({request("c", {.max_new_tokens = 1})});
  words.wait_for_somebody();
  EXPECT_TRUE(second->wait(0ms).empty());
  words.open();
  fetch(*third, 1);
  for (const auto& before : {first, second}) {
    before->wait(0ms);
    EXPECT_TRUE(before->ended());
  }
}

TEST_F(EngineTest, TakesNoMoreThanTheQueueHolds) {
  Engine engine(model, words, {.max_batch = 1, .queue = 2});
  words.close();
  const EngineRequest one = request("a", {.max_new_tokens = 1});
  const auto running = engine.submit({one});
  words.wait_for_somebody();
  const auto waiting = engine.submit({one});
  EXPECT_EQ(engine.load().running, 1);
  EXPECT_EQ(engine.load().waiting, 1);
  expect_error<BusyError>(
      [&] {
        engine.submit({one, one});
      },
      "1 texts are being written", "1 are waiting");
  const auto last = engine.submit({one});
  expect_error<BusyError>([&] { engine.submit({one}); }, "2 are waiting, of at most 1 and 2");
  expect_error<UsageError>([&] { engine.submit({one, one, one, one}); }, "1 to 3", "found 4");
  words.open();
  fetch(*last, 1);
  fetch(*engine.submit({one, one, one}), 3);
}

TEST_F(EngineTest, CancelledTextsMakeRoom) {
  Engine engine(model, words, {.max_batch = 2, .queue = 1});
  words.close();
  const auto end = engine.submit({request("a", {.max_new_tokens = 2})});
  const auto running = engine.submit({request("b", {.max_new_tokens = 60})});
  words.wait_for_somebody();
  const auto waiting = engine.submit({request("c", {.max_new_tokens = 60})});
  running->cancel();
  waiting->cancel();
  words.open();
  for (const auto& cancelled : {running, waiting}) {
    fetch(*cancelled, 1);
    expect_error<CancelledError>([&] { cancelled->result(0); }, "given up");
  }
  fetch(*end, 1);
  EXPECT_EQ(end->result(0).new_tokens, 2);
  end->cancel();  // too late, and harmless
  EXPECT_EQ(end->result(0).new_tokens, 2);
}

TEST_F(EngineTest, StopLetsTextsEnd) {
  Engine engine(model, words, {.max_batch = 1, .queue = 3});
  const auto generation =
      engine.submit({request("a", {.max_new_tokens = 20}), request("b", {.max_new_tokens = 20})});
  engine.stop(kLong);
  fetch(*generation, 2);
  EXPECT_EQ(generation->result(1).ids, generate(model, words, "b", {.max_new_tokens = 20}).ids);
  expect_error<BusyError>([&] { engine.submit({request("a", {})}); }, "being stopped");
  EXPECT_TRUE(engine.load().stopping);
}

TEST_F(EngineTest, StopCutsOffWhatTakesTooLong) {
  Engine engine(model, words, {.max_batch = 2, .queue = 3});
  words.close();
  const EngineRequest short_text = request("a", {.max_new_tokens = 1}),
                      long_text = request("b", {.max_new_tokens = 60});
  const auto generation = engine.submit({short_text, long_text, long_text});
  words.wait_for_somebody();
  std::thread stopper([&] { engine.stop(0ms); });
  while (!engine.load().stopping) std::this_thread::sleep_for(1ms);
  words.open();
  stopper.join();
  fetch(*generation, 3);
  EXPECT_EQ(generation->result(0).new_tokens, 1);
  expect_error<CancelledError>([&] { generation->result(2); }, "being stopped");
}

TEST_F(EngineTest, RefusesWhatCannotBeContinued) {
  Engine engine(model, words);
  const EngineRequest good = request("a", {.max_new_tokens = 1});
  const auto refused = [&](EngineRequest bad, const std::string& part) {
    expect_error<UsageError>([&] { engine.submit({good, bad}); }, part);
    EXPECT_EQ(engine.load().running + engine.load().waiting, 0);
  };
  refused({{}, {}}, "empty prompt");
  const EngineRequest long_one = {std::vector<std::int32_t>(64, 5), {}};
  expect_error<ContextError>([&] { engine.submit({long_one}); }, "context of 64");
  refused({{1, 61}, {}}, "token id 61");
  refused({{1, -1}, {}}, "token id -1");
  refused(request("a", {.max_new_tokens = -1}), "max_new_tokens");
  refused(request("a", {.sampling = {.top_p = 0}}), "top_p");
  refused(request("a", {.stop = {""}}), "stop string");
  expect_error<UsageError>([&] { engine.submit({}); }, "found 0");
  expect_error<UsageError>([&] { Engine(model, words, {.max_batch = 0}); }, "max_batch",
                           "1 to 256");
  expect_error<UsageError>([&] { Engine(model, words, {.queue = -1}); }, "queue");
}

TEST(EngineErrorTest, ABrokenRowEndsOnlyItsOwnText) {
  const test::TempDir dir;
  exporter::MemorySource source(engine_model());
  exporter::export_packed(source, engine_model(), dir / "m", formats::DType::kF32).commit();
  const auto file = dir / "m" / "model.safetensors";
  std::string bytes = read_file(file);
  const auto& rows = source.values("model.embed_tokens.weight");
  const std::string row(reinterpret_cast<const char*>(&rows[50 * 12]), 12 * sizeof(float));
  const float bad = NAN;
  ASSERT_NE(bytes.find(row), std::string::npos);
  std::memcpy(bytes.data() + bytes.find(row), &bad, sizeof bad);
  write_file(file, bytes);
  std::filesystem::remove(dir / "m" / "checksums.json");  // with it the model would not load

  PackedModel model(dir / "m", {.threads = 1});
  const Words words;
  const GenerateOptions options = {.max_new_tokens = 3, .sampling = {.temperature = 0}};
  const std::string expected = generate(model, words, "abc", options).text;
  Engine engine(model, words);
  const EngineRequest good = {prompt_ids(model, words, "abc", true), options};
  const auto generation = engine.submit({good, {{1, 5, 50, 6}, options}, good});
  while (!generation->ended()) generation->wait(kLong);
  EXPECT_EQ(generation->result(0).text, expected);
  EXPECT_EQ(generation->result(2).text, expected);
  expect_error<DataError>([&] { generation->result(1); }, "embed_tokens");
}

}  // namespace
}  // namespace fbi::infer
