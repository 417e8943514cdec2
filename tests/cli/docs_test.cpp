// The reference of verbs and options, and the names in it that other programs rely on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>

#include "cli/verb.h"
#include "fbi/core/file.h"

namespace fbi::cli {
namespace {

TEST(Verbs, PromisedNamesExist) {
  std::map<std::string, std::set<std::string>> found;
  for (const auto& verb : verbs())
    for (const auto& option : verb.options) found[verb.name].insert(option.name);
  const std::map<std::string, std::vector<std::string>> promised{
      {"tokenizer train", {"input", "vocab-size", "out"}},
      {"prepare", {"input", "tokenizer", "out", "seq-len", "field", "separator", "valid-fraction"}},
      {"train", {"config", "set", "run-dir", "resume", "dry-run"}},
      {"launch", {"nproc", "command"}},
      {"slurm", {"preset", "config", "nodes", "gpus-per-node", "set", "run-dir", "out"}},
      {"eval perplexity", {"model", "tokens", "text", "tokenizer", "seq-len", "dtype", "json"}},
      {"eval logits", {"model", "tokens", "out", "text", "tokenizer", "seq-len"}},
      {"generate", {"model", "prompt", "max-new-tokens", "temperature", "seed", "json"}},
      {"export", {"checkpoint", "format", "out", "dtype"}},
      {"inspect", {"path", "json"}},
      {"config", {"config", "set"}},
      {"estimate", {"config", "set", "gpus", "gpu-memory", "json"}},
      {"plot", {"run", "out"}}};
  for (const auto& [verb, options] : promised) {
    ASSERT_TRUE(found.contains(verb)) << verb << " is a name that users rely on";
    for (const auto& option : options)
      EXPECT_TRUE(found[verb].contains(option))
          << verb << " --" << option << " is a name that users rely on";
  }
}

TEST(Verbs, EveryOptionIsExplainedOnce) {
  for (const auto& verb : verbs()) {
    EXPECT_FALSE(verb.summary.empty() || verb.description.empty() || verb.examples.empty())
        << verb.name;
    std::set<std::string> names;
    for (const auto& option : verb.options) {
      EXPECT_TRUE(names.insert(option.name).second) << verb.name << " --" << option.name;
      EXPECT_FALSE(option.help.empty()) << verb.name << " --" << option.name;
      EXPECT_EQ(option.help.find('|'), std::string::npos)
          << "a | ends the cell of a Markdown table: " << verb.name << " --" << option.name;
    }
    if (!verb.positional.empty()) EXPECT_TRUE(names.contains(verb.positional)) << verb.name;
  }
}

/// Examples are what people copy: each must pass the parser of its own verb.
TEST(Verbs, ExamplesParse) {
  for (const auto& verb : verbs()) {
    for (const auto& example : verb.examples) {
      const std::string start = "fbi-llm " + verb.name + " ";
      ASSERT_TRUE(example.starts_with(start)) << example;
      std::vector<std::string> words(1);
      bool quoted = false;
      for (const char c : example.substr(start.size())) {
        if (c == '"')
          quoted = !quoted;
        else if (c == ' ' && !quoted)
          words.emplace_back();
        else
          words.back() += c;
      }
      EXPECT_NO_THROW((void)parse_arguments(verb, words)) << example;
    }
  }
}

TEST(Docs, CommandLinePageIsWhatTheVerbsSay) {
  const std::filesystem::path page = std::filesystem::path(FBI_SOURCE_DIR) / "docs" / "cli.md";
  if (std::getenv("FBI_UPDATE_DOCS")) write_file(page, markdown_reference());
  EXPECT_EQ(read_file(page), markdown_reference())
      << "docs/cli.md is out of date; write it anew with\n"
         "  FBI_UPDATE_DOCS=1 cli_test --gtest_filter='Docs.*'";
}

}  // namespace
}  // namespace fbi::cli
