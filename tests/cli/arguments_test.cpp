// What fbi-llm accepts as a command line, and what it says otherwise.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/ranks.h"
#include "cli/verb.h"
#include "fbi/core/error.h"
#include "support/expect_error.h"

namespace fbi::cli {
namespace {

using fbi::test::expect_error;
using testing::ElementsAre;
using testing::IsEmpty;

Verb sample_verb() {
  return {"cook",
          "make a dish",
          "Puts things together.",
          "input",
          {{"input", "FILE", "what goes in", "", true, true},
           {"out", "DIR", "where it goes", "", true, false},
           {"seed", "N", "how to stir", "7", false, false},
           {"heat", "X", "how hot", "0.5", false, false},
           {"set", "KEY=VALUE", "a change", "", false, true},
           {"json", "", "say it in JSON", "", false, false}},
          {"fbi-llm cook --out soup leek"},
          [](const Arguments&) { return 0; }};
}

Arguments parse(const std::vector<std::string>& words) {
  return parse_arguments(sample_verb(), words);
}

TEST(Arguments, ValuesFlagsAndDefaults) {
  const auto arguments = parse({"--input", "a", "--out=b", "--seed", "-3", "--json"});
  EXPECT_EQ(arguments.text("out"), "b");
  EXPECT_EQ(arguments.integer("seed"), -3);
  EXPECT_EQ(arguments.number("heat"), 0.5);
  EXPECT_TRUE(arguments.has("json"));
  EXPECT_FALSE(arguments.has("set"));
  EXPECT_THAT(arguments.list("set"), IsEmpty());
}

TEST(Arguments, WordsWithoutDashesGoToThePositionalOption) {
  EXPECT_THAT(parse({"a", "--out", "b", "c"}).list("input"), ElementsAre("a", "c"));
}

TEST(Arguments, RepeatedOptionsKeepTheirOrder) {
  const auto arguments = parse({"a", "--out", "b", "--set", "x=1", "--set", "y=[2,3]"});
  EXPECT_THAT(arguments.list("set"), ElementsAre("x=1", "y=[2,3]"));
}

TEST(Arguments, AValueMayHoldCommasSpacesAndEqualSigns) {
  const auto arguments = parse({"a,b", "--out", "c d", "--set", "k=v=w", "--set=p=[\"q\", \"r\"]"});
  EXPECT_THAT(arguments.list("input"), ElementsAre("a,b"));
  EXPECT_EQ(arguments.text("out"), "c d");
  EXPECT_THAT(arguments.list("set"), ElementsAre("k=v=w", "p=[\"q\", \"r\"]"));
}

TEST(Arguments, AValueMayBeginWithDashes) {
  EXPECT_EQ(parse({"a", "--out", "--outt"}).text("out"), "--outt");
  EXPECT_THAT(parse({"--out", "b", "--", "--input", "-c"}).list("input"),
              ElementsAre("--input", "-c"));
}

TEST(Arguments, UnknownOptionGetsTheNearest) {
  expect_error<UsageError>(
      [] {
        parse({"a", "--outt", "b"});
      },
      "unknown option --outt of fbi-llm cook", "did you mean --out?", "fbi-llm cook --help");
  expect_error<UsageError>([] { parse({"--qqqqqqqqq=3"}); },
                           "unknown option --qqqqqqqqq of fbi-llm cook. See fbi-llm cook --help");
}

TEST(Arguments, AFlagTakesNoValue) {
  for (const char* word : {"--json=false", "--json=true", "--json="})
    expect_error<UsageError>(
        [&] {
          parse({"a", "--out", "b", word});
        },
        word, "--json takes no value; leave it out");
}

TEST(Arguments, GivenOnesAreToldFromDefaults) {
  const auto arguments = parse({"a", "--out", "b", "--heat=0.5"});
  EXPECT_TRUE(arguments.has("seed"));
  EXPECT_FALSE(arguments.given("seed"));
  EXPECT_TRUE(arguments.given("heat"));
  EXPECT_TRUE(arguments.given("input"));
  arguments.refuse({"seed", "json"}, "is for soups");
  expect_error<UsageError>(
      [&] {
        arguments.refuse({"seed", "heat"}, "is for soups");
      },
      "--heat is for soups");
}

TEST(Arguments, ARequiredOneIsNotEmpty) {
  expect_error<UsageError>([] { parse({"a", "--out", ""}); }, "--out: expected DIR, found ''");
}

TEST(Arguments, WordsOfAnotherCommandNeedDashesBefore) {
  Verb verb = sample_verb();
  verb.positional = "command";
  verb.options.push_back({"command", "WORDS", "what to run", "", true, true});
  expect_error<UsageError>(
      [&] {
        (void)parse_arguments(verb, {"--seed", "2", "train", "--config", "x"});
      },
      "put -- before the verb", "--config is an option of train", "fbi-llm cook … -- train …");
}

TEST(Arguments, AllMissingOptionsAreNamedTogether) {
  expect_error<UsageError>([] { parse({}); }, "fbi-llm cook needs:", "--input FILE  what goes in",
                           "--out DIR  where it goes");
}

TEST(Arguments, OnceOnlyOptionGivenTwice) {
  expect_error<UsageError>(
      [] {
        parse({"a", "--out", "b", "--out", "c"});
      },
      "--out is given 2 times");
}

TEST(Arguments, OptionWithoutItsValue) {
  expect_error<UsageError>([] { parse({"a", "--out"}); }, "out", "fbi-llm cook --help");
}

TEST(Arguments, NotANumber) {
  const auto arguments = parse({"a", "--out", "b", "--seed", "12x", "--heat", "warm"});
  expect_error<UsageError>([&] { (void)arguments.integer("seed"); },
                           "--seed: expected an integer, found '12x'");
  expect_error<UsageError>([&] { (void)arguments.number("heat"); },
                           "--heat: expected a number, found 'warm'");
  const auto large = parse({"a", "--out", "b", "--seed", "99999999999999999999"});
  expect_error<UsageError>([&] { (void)large.integer("seed"); }, "--seed: expected an integer");
}

TEST(Arguments, IntegerWithinBounds) {
  const auto arguments = parse({"a", "--out", "b", "--seed", "4294967296"});
  EXPECT_EQ(arguments.integer("seed", 4294967296, 4294967296), 4294967296);
  expect_error<UsageError>([&] { (void)arguments.integer("seed", 0, 4294967295); },
                           "--seed: expected 0 to 4294967295, found 4294967296");
  expect_error<UsageError>([&] { (void)arguments.integer("seed", 4294967297, 4294967298); },
                           "--seed: expected 4294967297 to 4294967298, found 4294967296");
}

TEST(Arguments, SeedIsNotNegative) {
  const auto seed = [](const std::string& text) {
    return parse({"a", "--out", "b", "--seed", text}).seed();
  };
  EXPECT_EQ(seed("0"), 0u);
  EXPECT_EQ(seed("9223372036854775807"), 9223372036854775807u);
  expect_error<UsageError>([&] { (void)seed("-1"); },
                           "--seed: expected 0 to 9223372036854775807, found -1");
}

TEST(Arguments, RanksFitTheirType) {
  Verb verb = sample_verb();
  verb.options = rank_options();
  for (const char* name : {"--rank", "--world-size", "--local-rank", "--master-port"})
    for (const char* value : {"4294967296", "-1"})
      expect_error<UsageError>(
          [&] {
            (void)discover_rank(parse_arguments(verb, {name, value}));
          },
          concat(name, ": expected 0 to 2147483647, found ", value));
}

TEST(Arguments, WordsThatNoOptionTakes) {
  Verb verb = sample_verb();
  verb.positional.clear();
  expect_error<UsageError>(
      [&] {
        (void)parse_arguments(verb, {"--input", "a", "--out", "b", "left"});
      },
      "unexpected argument 'left'");
}

TEST(Help, NamesEveryOptionWithDefaultAndExample) {
  const std::string text = help_text(sample_verb());
  for (const char* part :
       {"Usage: fbi-llm cook --out DIR [options] FILE…", "--seed N", "(default 7)", "--out DIR",
        "(required)", "(repeatable)", "fbi-llm cook --out soup leek"})
    EXPECT_THAT(text, testing::HasSubstr(part));
}

}  // namespace
}  // namespace fbi::cli
