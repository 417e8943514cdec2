#include "fbi/train/evaluation.h"

#include <gtest/gtest.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "distributed/ranks.h"
#include "eval/bigram_model.h"
#include "fbi/core/error.h"
#include "fbi/core/signals.h"
#include "infer/word_tokenizer.h"
#include "support/expect_error.h"
#include "support/write_text.h"
#include "train/tiny_run.h"

namespace fbi::train {
namespace {

using Json = nlohmann::json;

eval::BigramModel bigram_model(std::int64_t vocab_size) {
  eval::BigramModel model(vocab_size, 64);
  for (std::int64_t a = 0; a < vocab_size; ++a) {
    for (std::int64_t b = 0; b < vocab_size; ++b)
      model.logit(a, b) = static_cast<float>((a * 7 + b * 3) % 11) * 0.3f;
  }
  return model;
}

eval::WindowSource windows(std::int64_t count) {
  return {count, 5, [](std::int64_t index, std::span<std::int32_t> out) {
            for (std::size_t i = 0; i < out.size(); ++i)
              out[i] = static_cast<std::int32_t>((index * 5 + static_cast<std::int64_t>(i)) % 9);
          }};
}

TEST(SpreadPerplexity, HasTheBitsOfOneRank) {
  eval::BigramModel one = bigram_model(9);
  eval::PerplexityOptions options;
  options.batch = 2;
  const auto expected = eval::perplexity(one, windows(7), options);
  for (const int size : {1, 2, 3, 6}) {  // of 6 ranks two have nothing to do
    test::run_ranks_ok(size, [&](distributed::Communicator& communicator) {
      eval::BigramModel model = bigram_model(9);
      const auto found = perplexity(communicator, model, windows(7), options);
      ASSERT_TRUE(found);
      EXPECT_EQ(eval::to_json(*found), eval::to_json(expected)) << size;
    });
  }
}

TEST(SpreadChoices, HaveTheBitsOfOneRank) {
  const infer::WordTokenizer tokenizer({"the", " fox", " dog", " ran", " sat"});
  eval::ChoiceTask task{"animals", true, {}};
  for (int i = 0; i < 5; ++i) {
    eval::ChoiceItem item;
    item.choices = {{"the fox", " ran"}, {"the dog", " sat ran"}};
    if (i % 2) item.choices.push_back({"the", " fox sat"});
    for (const auto& choice : item.choices) item.characters.push_back(std::ssize(choice.text) - 1);
    item.gold = i % 2;
    task.items.push_back(item);
  }
  eval::BigramModel one = bigram_model(tokenizer.vocab_size());
  const auto expected = eval::evaluate_choices(one, tokenizer, task);
  for (const int size : {1, 2, 3, 7}) {
    test::run_ranks_ok(size, [&](distributed::Communicator& communicator) {
      eval::BigramModel model = bigram_model(tokenizer.vocab_size());
      const auto found = evaluate_choices(communicator, model, tokenizer, task, {});
      ASSERT_TRUE(found);
      EXPECT_EQ(eval::samples_jsonl(*found), eval::samples_jsonl(expected)) << size;
      EXPECT_EQ(eval::to_json({&*found, 1}), eval::to_json({&expected, 1})) << size;
    });
  }
}

TEST(SpreadPerplexity, EndsOnAllRanksWhenOneIsAskedToStop) {
  install_stop_handlers();
  eval::BigramModel model = bigram_model(9);
  std::raise(SIGUSR1);
  const auto found = perplexity(*distributed::make_single_rank(), model, windows(7), {});
  clear_stop_request();
  EXPECT_FALSE(found);
}

TEST(SpreadPerplexity, AnErrorOfOneRankIsAnErrorOnAll) {
  const auto errors = test::run_ranks(2, [&](distributed::Communicator& communicator) {
    eval::BigramModel model = bigram_model(9);
    if (communicator.rank() == 1) model.logit(3, 4) = std::numeric_limits<float>::quiet_NaN();
    perplexity(communicator, model, windows(8), {});
  });
  for (const auto& error : errors) {
    ASSERT_TRUE(error);
    EXPECT_THROW(std::rethrow_exception(error), DataError);
  }
}

class EvaluationOfARun : public ::testing::Test {
 protected:
  EvaluationOfARun() {
    install_stop_handlers();
    std::filesystem::copy(runs_.path("tiny.tokens"), runs_.path("valid.tokens"));
    config_.train.steps = 25;
    config_.evaluation.every_steps = 10;
    config_.evaluation.tokens = {runs_.path("valid.tokens").string()};
    config_.evaluation.max_windows = 9;
  }
  TinyRuns runs_;
  config::RunConfig config_ = runs_.config();
};

TEST_F(EvaluationOfARun, GoesIntoTheMetricsOnItsCadenceAndAtTheEnd) {
  runs_.run(config_, "a");
  const auto lines = metrics_lines(runs_.path("a"));
  ASSERT_EQ(lines.size(), 25u);
  std::vector<double> found;
  for (std::size_t step = 1; step <= lines.size(); ++step) {
    const Json line = Json::parse(lines[step - 1] + "}");
    EXPECT_EQ(line.contains("evaluation"), step == 10 || step == 20 || step == 25) << step;
    if (line.contains("evaluation")) found.push_back(line["evaluation"]["valid"]["perplexity"]);
  }
  ASSERT_EQ(found.size(), 3u);
  EXPECT_LT(found[2], found[0]);  // it learns what it is trained on
  EXPECT_LT(found[0], 2 * kVocab);
}

TEST_F(EvaluationOfARun, ChangesNothingAndIsTheSameAfterAResume) {
  config_.checkpoint.every_steps = 12;
  runs_.run(config_, "whole");
  runs_.run(config_, "resumed", "none", [](const StepMetrics& metrics) {
    if (metrics.step == 15) std::raise(SIGUSR1);
  });
  clear_stop_request();
  runs_.run(config_, "resumed", "auto");
  EXPECT_EQ(metrics_lines(runs_.path("resumed")), metrics_lines(runs_.path("whole")));
  config_.evaluation.every_steps = 0;
  runs_.run(config_, "without");
  EXPECT_EQ(checkpoint_fingerprint(checkpoint_of(runs_.path("whole"), 25)),
            checkpoint_fingerprint(checkpoint_of(runs_.path("without"), 25)));
}

TEST_F(EvaluationOfARun, RefusesWhatItCannotOpenBeforeTheFirstStep) {
  config_.evaluation.tokens.push_back(runs_.path("missing.tokens").string());
  test::expect_error<DataError>([&] { runs_.run(config_, "a"); }, "missing.tokens");
  EXPECT_FALSE(std::filesystem::exists(runs_.path("a") / "metrics.jsonl"));
  config_.evaluation.tokens = {runs_.path("valid.tokens").string(),
                               runs_.path("valid.tokens").string()};
  test::expect_error<UsageError>([&] { runs_.run(config_, "a"); }, "two are called valid");
  config_.evaluation.tokens.clear();
  test::write_text(runs_.path("task.jsonl"), R"({"context": "a", "choices": ["b", "c"], "gold": 0})"
                                             "\n");
  config_.evaluation.tasks = {runs_.path("task.jsonl").string()};
  test::expect_error<DataError>([&] { runs_.run(config_, "a"); },
                                "evaluation.tasks need a tokenizer");
}

}  // namespace
}  // namespace fbi::train
