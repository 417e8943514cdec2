#include "fbi/eval/choice.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "eval/bigram_model.h"
#include "eval/python_text.h"
#include "fbi/core/error.h"
#include "infer/word_tokenizer.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/write_text.h"

namespace fbi::eval {
namespace {

using test::expect_error;
using Json = nlohmann::json;

TEST(PythonText, CharactersAndSpaces) {
  EXPECT_EQ(count_characters("añ日🦊"), 4);
  EXPECT_EQ(count_characters(""), 0);
  EXPECT_EQ(count_characters("\xff\x80\x80"), 1);
  EXPECT_EQ(length_without_trailing_space("a \t\u00a0\u3000\n"), 1u);
  EXPECT_EQ(length_without_trailing_space(" \u2003"), 0u);
  EXPECT_EQ(length_without_trailing_space("é"), 2u);
  EXPECT_EQ(length_without_trailing_space(""), 0u);
  EXPECT_EQ(strip("\u3000 a b\x1f\n"), "a b");
  EXPECT_EQ(capitalize("éCOLE Des ÄRZTE ß"), "École des ärzte ß");
  EXPECT_EQ(capitalize(""), "");
}

class ChoiceTasks : public testing::Test {
 protected:
  ChoiceItem item(const std::string& form, const Json& line) {
    test::write_text(path_, line.dump() + "\n\n");
    return read_choice_task(form, path_).items.at(0);
  }
  template <class... Parts>
  void refused(const std::string& form, const std::string& text, const Parts&... parts) {
    test::write_text(path_, text);
    expect_error<DataError>([&] { read_choice_task(form, path_); }, path_.string(), parts...);
  }
  static std::vector<std::string> texts(const ChoiceItem& item) {
    std::vector<std::string> result;
    for (const auto& choice : item.choices) result.push_back(choice.context + "|" + choice.text);
    return result;
  }

  test::TempDir folder_;
  std::filesystem::path path_ = folder_ / "my_task.jsonl";
};

TEST_F(ChoiceTasks, PlainLines) {
  const ChoiceItem found =
      item("", {{"context", "The sky is"}, {"choices", {"blue", "grün"}}, {"gold", 1}});
  EXPECT_EQ(texts(found), (std::vector<std::string>{"The sky is| blue", "The sky is| grün"}));
  EXPECT_EQ(found.characters, (std::vector<std::int64_t>{4, 4}));
  EXPECT_EQ(found.gold, 1);
  EXPECT_EQ(read_choice_task("", path_).name, "my_task");
}

TEST_F(ChoiceTasks, PromptForms) {
  EXPECT_EQ(texts(item("boolq", {{"passage", "P."}, {"question", "is it"}, {"label", 1}})),
            (std::vector<std::string>{"P.\nQuestion: is it?\nAnswer:| no",
                                      "P.\nQuestion: is it?\nAnswer:| yes"}));
  const ChoiceItem titled =
      item("boolq", {{"title", "T"}, {"passage", "P."}, {"question", "is it"}, {"answer", true}});
  EXPECT_EQ(texts(titled)[0], "T -- P.\nQuestion: is it?\nAnswer:| no") << "as in SuperGLUE";
  EXPECT_EQ(titled.gold, 1);
  EXPECT_FALSE(read_choice_task("boolq", path_).has_acc_norm);
  EXPECT_EQ(texts(item("piqa", {{"goal", "G"}, {"sol1", "a"}, {"sol2", "b"}, {"label", 0}})),
            (std::vector<std::string>{"Question: G\nAnswer:| a", "Question: G\nAnswer:| b"}));
  const ChoiceItem swag = item("hellaswag", {{"activity_label", "Cooking"},
                                             {"ctx_a", "[header] A man [title] cooks."},
                                             {"ctx_b", "he THEN"},
                                             {"endings", {" eats [substeps] it. ", "sleeps  [x"}},
                                             {"label", "1"}});
  EXPECT_EQ(texts(swag), (std::vector<std::string>{"Cooking: A man. cooks. He then| eats it.",
                                                   "Cooking: A man. cooks. He then| sleeps [x"}));
  EXPECT_EQ(swag.gold, 1);
  const ChoiceItem grande = item("winogrande", {{"sentence", "Ann saw Bea, but _ left . "},
                                                {"option1", "Ann"},
                                                {"option2", "Bea"},
                                                {"answer", "2"}});
  EXPECT_EQ(texts(grande), (std::vector<std::string>{"Ann saw Bea, but Ann| left .",
                                                     "Ann saw Bea, but Bea| left ."}));
  EXPECT_EQ(grande.gold, 1);
  const Json hub = {{"question", "Why"},
                    {"choices", {{"text", {"a", "b"}}, {"label", {"A", "B"}}}},
                    {"answerKey", "B"}};
  const Json published = {
      {"question",
       {{"stem", "Why"},
        {"choices", {{{"text", "a"}, {"label", "1"}}, {{"text", "b"}, {"label", "2"}}}}}},
      {"answerKey", "2"}};
  for (const Json& line : {hub, published}) {
    const ChoiceItem arc = item("arc_easy", line);
    EXPECT_EQ(texts(arc),
              (std::vector<std::string>{"Question: Why\nAnswer:| a", "Question: Why\nAnswer:| b"}));
    EXPECT_EQ(arc.gold, 1);
  }
  EXPECT_EQ(texts(item("openbookqa", published)), (std::vector<std::string>{"Why| a", "Why| b"}));
  Json stem = hub;
  stem.erase("question");
  stem["question_stem"] = "Why";
  EXPECT_EQ(texts(item("openbookqa", stem))[1], "Why| b");
}

TEST_F(ChoiceTasks, Refusals) {
  expect_error<UsageError>([&] { read_choice_task("mmlu", path_); }, "'mmlu'", "boolq, piqa");
  refused("", "", "holds no item");
  refused("", "{", "line 1: expected a JSON object");
  refused("", "[]", "line 1", "expected a JSON object");
  refused("", "\n{\"context\":\"a\"}", "line 2", "field choices is missing");
  refused("", R"({"context":1,"choices":["a","b"],"gold":0})", "field context: expected a text");
  refused("", R"({"context":"a","choices":["a",2],"gold":0})",
          "field choices: expected a list of texts");
  refused("", R"({"context":"a","choices":["a"],"gold":0})", "at least 2 choices");
  refused("", R"({"context":"a","choices":["a","b"],"gold":2})", "number 2 of 2");
  refused("", R"({"context":"a","choices":["a","b"],"gold":-1})", "field gold", "found -1");
  refused("winogrande", R"({"sentence":"a","option1":"a","option2":"b","answer":"1"})",
          "expected a gap");
  refused("boolq", R"({"passage":"P.","question":"is it","answer":true})", "field title is needed",
          "aps/super_glue", "passage, question and label");
  refused("piqa", R"({"goal":"G","sol1":"a","sol2":"b"})",
          "field label is missing, found are goal, sol1, sol2", "docs/evaluation.md");
  refused("", "{}", "field context is missing, found are none");
  refused("arc_easy",
          R"({"question":"a","choices":{"text":["a","b"],"label":["A","B"]},"answerKey":"C"})",
          "\"C\" is no label");
  expect_error<DataError>([&] { read_choice_task("", folder_ / "absent"); }, "absent");
}

TEST(Choice, LikelihoodsOfABigramModel) {
  const infer::WordTokenizer tokenizer({"the", " fox", " dog", " ran", " sat"});
  BigramModel model(tokenizer.vocab_size(), 16);
  for (std::int64_t a = 0; a < model.vocab_size(); ++a) {
    for (std::int64_t b = 0; b < model.vocab_size(); ++b)
      model.logit(a, b) = std::sin(static_cast<float>(7 * a + 3 * b));
  }
  const ChoiceTask task{"t",
                        true,
                        {{{{"the fox", " ran"}, {"the fox", " sat sat"}}, {3, 7}, 0},
                         {{{"the ", " dog"}, {"the ", " fox"}}, {3, 3}, 1},
                         {{{"", " dog ran"}, {"", " fox"}}, {7, 3}, 1}}};
  const auto expected = [&](const std::vector<std::int32_t>& ids, std::size_t first) {
    double sum = 0;
    for (std::size_t i = first; i < ids.size(); ++i) sum -= model.nll(ids[i - 1], ids[i]);
    return sum;
  };
  const auto ids = [&](const std::string& text) { return tokenizer.encode(text); };
  const auto after_bos = [&](const std::string& text) {
    auto all = ids(text);
    all.insert(all.begin(), tokenizer.bos_id());
    return all;
  };
  for (const std::int64_t batch : {1, 2, 100}) {
    ChoiceOptions options;
    options.batch = batch;
    const ChoiceResult result = evaluate_choices(model, tokenizer, task, options);
    EXPECT_NEAR(result.items[0].log_likelihoods[0], expected(ids("the fox ran"), 2), 1e-5);
    EXPECT_NEAR(result.items[0].log_likelihoods[1], expected(ids("the fox sat sat"), 2), 1e-5);
    EXPECT_NEAR(result.items[1].log_likelihoods[0], expected(ids("the  dog"), 1), 1e-5);
    EXPECT_NEAR(result.items[2].log_likelihoods[0], expected(after_bos(" dog ran"), 1), 1e-5);
    for (const auto& item : result.items) {
      EXPECT_EQ(item.chosen, item.log_likelihoods[1] > item.log_likelihoods[0]);
    }
    const ChoiceScores scores = scores_of(result);
    double right = 0;
    for (const auto& item : result.items) right += item.chosen == item.gold;
    EXPECT_DOUBLE_EQ(scores.acc, right / 3);
    const Json json = Json::parse(to_json(std::vector{result}));
    EXPECT_EQ(json["results"]["t"]["acc,none"], scores.acc);
    EXPECT_EQ(json["n-samples"]["t"]["effective"], 3);
    EXPECT_EQ(json["config"]["add_bos_token"], false);
    const Json sample =
        Json::parse(samples_jsonl(result).substr(0, samples_jsonl(result).find('\n')));
    EXPECT_EQ(sample["doc_id"], 0);
    EXPECT_EQ(sample["filtered_resps"][1], result.items[0].log_likelihoods[1]);
  }
  ChoiceOptions with_bos;
  with_bos.add_bos = true;
  EXPECT_NEAR(evaluate_choices(model, tokenizer, task, with_bos).items[0].log_likelihoods[0],
              expected(ids("the fox ran"), 2), 1e-5)
      << "a bigram does not see as far as the BOS";
}

TEST(Choice, AverageOfThePublishedTable) {
  // Right by its likelihood, wrong per character: acc 1 and acc_norm 0.
  const ChoiceItem item{{{"a", " b"}, {"a", " c"}}, {1, 100}, 0};
  const ChoiceItemResult judged = judge(item, {-1, -2});
  ASSERT_EQ(judged.chosen, 0);
  ASSERT_EQ(judged.chosen_norm, 1);
  std::vector<ChoiceResult> results;
  for (const std::string& form : choice_forms()) {
    EXPECT_FALSE(published_average(results).has_value()) << results.size();
    EXPECT_FALSE(Json::parse(to_json(results)).contains("published_average"));
    const bool has_acc_norm = form != "boolq" && form != "winogrande";
    results.push_back({form, has_acc_norm, "fp32", false, 0, 1, {judged}});
  }
  results.push_back({"mine", true, "fp32", false, 0, 1, {judged}});
  EXPECT_DOUBLE_EQ(published_average(results).value(), 2.0 / 7);
  EXPECT_DOUBLE_EQ(Json::parse(to_json(results)).at("published_average").get<double>(), 2.0 / 7);
}

TEST(Choice, PartsJoinToTheWhole) {
  const infer::WordTokenizer tokenizer({"a", " b", " c"});
  BigramModel model(tokenizer.vocab_size(), 16);
  model.logit(tokenizer.encode("a")[0], tokenizer.encode(" b")[0]) = 3;
  ChoiceTask task{"t", true, {}};
  for (int i = 0; i < 5; ++i) task.items.push_back({{{"a", " b"}, {"a", " c"}}, {1, 1}, i % 2});
  const ChoiceResult whole = evaluate_choices(model, tokenizer, task);
  std::string parts;
  for (const int part : {0, 1, 2, 3, 4, 5, 6}) {
    ChoiceOptions options;
    options.part = part;
    options.parts = 7;
    parts += samples_jsonl(evaluate_choices(model, tokenizer, task, options));
  }
  EXPECT_EQ(parts, samples_jsonl(whole));
  EXPECT_DOUBLE_EQ(scores_of(whole).acc, 0.6);
  EXPECT_NEAR(scores_of(whole).acc_stderr, std::sqrt(0.6 * 0.4 / 4), 1e-12);
}

TEST(Choice, Refusals) {
  const infer::WordTokenizer tokenizer({"a", " a", " b"});
  BigramModel model(tokenizer.vocab_size(), 3);
  const auto evaluate = [&](const std::string& context, const std::string& text) {
    evaluate_choices(model, tokenizer,
                     {"t", true, {{{{context, text}, {context, text}}, {1, 1}, 0}}});
  };
  EXPECT_NO_THROW(evaluate("a a a a a a a", " b b b")) << "the context loses its beginning";
  expect_error<DataError>([&] { evaluate("a", " b b b b"); }, "t, item 0, choice 0", "4 tokens",
                          "context is 3");
  expect_error<DataError>([&] { evaluate("a", ""); }, "the choice has no token");
  ChoiceOptions options;
  options.part = 2;
  expect_error<UsageError>([&] { evaluate_choices(model, tokenizer, {}, options); }, "part 2 of 1");
  options = {};
  options.batch = 0;
  expect_error<UsageError>([&] { evaluate_choices(model, tokenizer, {}, options); }, "batch");
  model.logit(tokenizer.encode("a")[0], 0) = NAN;
  expect_error<DataError>([&] { evaluate("a", " b"); }, "log-likelihood is", "nan");
}

}  // namespace
}  // namespace fbi::eval
