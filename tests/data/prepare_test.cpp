#include "fbi/data/prepare.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "data/data_files.h"
#include "data/prepare_fixture.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/system.h"
#include "fbi/data/training_data.h"
#include "fbi/text/tokenizer.h"
#include "support/entries.h"
#include "support/expect_error.h"
#include "support/shared_data.h"

namespace fbi::data {
namespace {

using Prepare = test::PrepareFixture;

using test::expect_error;
using test::ids_of_shards;
using test::token_line;
using ::testing::ElementsAre;

TEST_F(Prepare, TextBecomesDocumentsCutIntoSamples) {
  input("a.txt", "the fox sees the river.\n\nthe child paints\n12 stones.\n");
  input("b.txt", "a small owl");
  const PrepareResult result = run();
  std::vector<std::int32_t> expected;
  for (const char* text :
       {"the fox sees the river.", "the child paints\n12 stones.", "a small owl"}) {
    const auto ids = document(text);
    expected.insert(expected.end(), ids.begin(), ids.end());
  }
  EXPECT_FALSE(result.already_done);
  EXPECT_EQ(result.train.documents, 3);
  EXPECT_EQ(result.train.ids, std::ssize(expected));
  EXPECT_EQ(result.train.samples, std::ssize(expected) / 8);
  EXPECT_EQ(result.train.dropped_ids, std::ssize(expected) % 8);
  EXPECT_EQ(result.vocab_size, 400);
  EXPECT_EQ(result.tokenizer_hash, tokenizer_->file_hash());
  EXPECT_THAT(result.train.files, ElementsAre("train-00000.tokens"));
  EXPECT_THAT(result.valid.files, ::testing::IsEmpty());
  expected.resize(result.train.samples * 8);
  EXPECT_EQ(ids_of_shards(options_.output, result.train.files), expected);
  EXPECT_EQ(read_file(options_.output / "tokenizer.model"), tokenizer_->file_bytes());
  EXPECT_EQ(formats::TokenShard(options_.output / "train-00000.tokens").info().tokenizer_hash,
            tokenizer_->file_hash());
  EXPECT_THAT(test::entries(folder_.path()), ElementsAre("a.txt", "b.txt", "out"));
}

TEST_F(Prepare, DatasetJsonTellsWhatWasDone) {
  input("a.txt", test::small_corpus());
  options_.valid_fraction = 0;
  const PrepareResult result = run();
  const auto json = nlohmann::json::parse(read_file(options_.output / "dataset.json"));
  EXPECT_EQ(json["options"]["seq_len"], 7);
  EXPECT_EQ(json["options"]["separator"], "\n\n");
  EXPECT_EQ(json["inputs"][0]["name"], "a.txt");
  EXPECT_EQ(json["tokenizer"]["xxh3_128"], tokenizer_->file_hash());
  EXPECT_EQ(json["tokenizer"]["vocab_size"], 400);
  EXPECT_EQ(json["train"]["documents"], 1);
  EXPECT_EQ(json["train"]["samples"], result.train.samples);
  EXPECT_EQ(json["train"]["dropped_ids"], result.train.dropped_ids);
  EXPECT_EQ(json["valid"]["samples"], 0);
}

TEST_F(Prepare, TheFolderIsTrainingData) {
  input("a.txt", test::small_corpus());
  const PrepareResult result = run();
  config::DataConfig data;
  data.paths = {options_.output.string()};
  config::TrainConfig train;
  train.seq_len = 7;
  const auto opened = open_training_data(data, train, 400);
  EXPECT_EQ(opened->samples_per_epoch(), result.train.samples);
  EXPECT_EQ(opened->tokenizer_hash(), tokenizer_->file_hash());
  EXPECT_EQ(find_tokenizer(data), options_.output / "tokenizer.model");
}

TEST_F(Prepare, AFieldOfJsonLinesIsText) {
  options_.field = "text";
  input("a.jsonl",
        "{\"text\": \"the fox\\nsees\", \"id\": 1}\n{\"id\": 2, \"text\": \"caf\\u00e9 "
        "\\ud83d\\ude00\"}\n");
  const PrepareResult result = run();
  auto expected = document("the fox\nsees");
  const auto second = document("café 😀");
  expected.insert(expected.end(), second.begin(), second.end());
  EXPECT_EQ(result.train.documents, 2);
  EXPECT_EQ(result.train.ids, std::ssize(expected));
  expected.resize(result.train.samples * 8);
  EXPECT_EQ(ids_of_shards(options_.output, result.train.files), expected);
}

TEST_F(Prepare, TokenIdsAreTakenAsTheyAre) {
  ids_only(70000);  // above 65536: four bytes an id
  input("a.jsonl", token_line(65530, 10) + "\n" + token_line(100, 3) + "\n\n");
  const PrepareResult result = run();
  EXPECT_EQ(result.train.documents, 2);
  EXPECT_EQ(result.train.samples, 1);
  EXPECT_EQ(result.train.dropped_ids, 5);
  EXPECT_EQ(result.tokenizer_hash, "");
  EXPECT_THAT(ids_of_shards(options_.output, result.train.files),
              ElementsAre(65530, 65531, 65532, 65533, 65534, 65535, 65536, 65537));
  EXPECT_FALSE(std::filesystem::exists(options_.output / "tokenizer.model"));
}

TEST_F(Prepare, TheFormatCanBeForced) {
  ids_only(100);
  options_.format = InputFormat::kJsonLines;
  input("a.data", token_line(0, 8));
  EXPECT_EQ(run().train.samples, 1);
}

TEST_F(Prepare, ValidationDocumentsAreChosenByNumberAndSeed) {
  ids_only(2000);
  std::string lines;
  for (int k = 0; k < 1000; ++k) lines += "{\"token_ids\": [" + std::to_string(k) + "]}\n";
  input("a.jsonl", lines);
  options_.seq_len = 1;
  options_.valid_fraction = 0.2;
  const PrepareResult result = run();
  EXPECT_EQ(result.train.documents + result.valid.documents, 1000);
  // 1000 draws with p = 0.2 have a deviation of 12.6; five of them.
  EXPECT_NEAR(static_cast<double>(result.valid.documents), 200, 64);
  auto train = ids_of_shards(options_.output, result.train.files);
  const auto valid = ids_of_shards(options_.output, result.valid.files);
  EXPECT_THAT(result.valid.files, ElementsAre("valid-00000.tokens"));
  EXPECT_TRUE(std::is_sorted(train.begin(), train.end()));
  EXPECT_TRUE(std::is_sorted(valid.begin(), valid.end()));

  options_.output = folder_ / "other seed";
  options_.seed = 1;
  const auto other = run();
  EXPECT_NE(ids_of_shards(options_.output, other.valid.files), valid);
}

TEST_F(Prepare, ShardsAreCutAtTheSizeLimit) {
  ids_only(100);
  std::string lines;
  for (int k = 0; k < 10; ++k) lines += token_line(k, 8) + "\n";
  input("a.jsonl", lines);
  options_.max_shard_bytes = 3 * 8 * 2 + 1;
  const PrepareResult result = run();
  EXPECT_THAT(result.train.files, ElementsAre("train-00000.tokens", "train-00001.tokens",
                                              "train-00002.tokens", "train-00003.tokens"));
  const auto ids = ids_of_shards(options_.output, result.train.files);
  ASSERT_EQ(ids.size(), 80u);
  for (int k = 0; k < 80; ++k) EXPECT_EQ(ids[k], k / 8 + k % 8);
  EXPECT_EQ(formats::TokenShard(options_.output / "train-00003.tokens").info().sample_count, 1u);
}

TEST_F(Prepare, ThreadsDoNotChangeTheResult) {
  std::string text;
  for (int copy = 0; copy < 3; ++copy) text += test::small_corpus();
  input("a.txt", text);
  options_.separator = "\n";
  options_.valid_fraction = 0.1;
  const PrepareResult serial = run();
  const auto serial_output = options_.output;
  options_.output = folder_ / "threads";
  ThreadPool pool(3);
  const PrepareResult parallel = prepare(options_, pool);
  for (const std::string& file :
       {serial.train.files[0], serial.valid.files[0], std::string("dataset.json")}) {
    EXPECT_EQ(read_file(serial_output / file), read_file(options_.output / file)) << file;
  }
  EXPECT_EQ(parallel.train.documents + parallel.valid.documents, 1500);
}

TEST_F(Prepare, ASecondRunFindsTheWorkDone) {
  input("a.txt", test::small_corpus());
  options_.valid_fraction = 0.5;
  options_.separator = "\n";
  const PrepareResult first = run();
  const auto time = std::filesystem::last_write_time(options_.output / "dataset.json");
  test::write_text(options_.inputs[0], test::small_corpus());  // a new time, the same content
  options_.output = options_.output.string() + "/";
  const PrepareResult second = run();
  EXPECT_TRUE(second.already_done);
  EXPECT_EQ(second.train.samples, first.train.samples);
  EXPECT_EQ(second.valid.documents, first.valid.documents);
  EXPECT_EQ(second.train.files, first.train.files);
  EXPECT_EQ(std::filesystem::last_write_time(options_.output / "dataset.json"), time);
}

TEST_F(Prepare, AnythingElseInTheOutputFolderIsRefused) {
  input("a.txt", test::small_corpus());
  options_.valid_fraction = 0.3;
  run();
  options_.seq_len = 15;
  options_.seed = 9;
  expect_error<UsageError>([&] { run(); }, options_.output.string(), "not empty", "options/seq_len",
                           "options/seed");
  options_.seq_len = 7;
  options_.seed = 0;
  test::write_text(options_.inputs[0], test::small_corpus() + "more");
  expect_error<UsageError>([&] { run(); }, "inputs/0/xxh3_128");
  test::write_text(options_.output / "dataset.json", "{");
  expect_error<UsageError>([&] { run(); }, "dataset.json is broken");
  std::filesystem::remove(options_.output / "dataset.json");
  expect_error<UsageError>([&] { run(); }, "holds no dataset.json", "choose another folder");
  options_.output = options_.inputs[0];
  expect_error<UsageError>([&] { run(); }, "is not a folder");
}

TEST_F(Prepare, OptionsWithoutEffectMakeNoDifference) {
  input("a.txt", test::small_corpus());
  run();
  options_.seed = 9;  // without a validation part
  EXPECT_TRUE(run().already_done);
}

/// The file whose hash is known does not name them.
TEST_F(Prepare, OtherSpecialTokensAreAnotherPreparation) {
  const auto source =
      std::filesystem::path(__FILE__).parent_path().parent_path() / "text/byte_bpe/llama3";
  const auto own = folder_ / "tokenizer";
  std::filesystem::create_directory(own);
  std::filesystem::copy_file(source / "tokenizer.json", own / "tokenizer.json");
  std::string names = read_file(source / "tokenizer_config.json");
  test::write_text(own / "tokenizer_config.json", names);
  input("a.txt", test::small_corpus());
  options_.tokenizer = own;
  run();
  EXPECT_TRUE(run().already_done);
  const std::string key = "\"bos_token\"";
  names.replace(names.find(key), key.size(), "\"bos_token\": \"<|end_of_text|>\", \"was\"");
  test::write_text(own / "tokenizer_config.json", names);
  expect_error<UsageError>([&] { run(); }, "prepared otherwise", "tokenizer/bos_id");
}

TEST_F(Prepare, DoneWorkWithMissingShardsIsNotDone) {
  input("a.txt", test::small_corpus());
  run();
  std::filesystem::remove(options_.output / "train-00000.tokens");
  expect_error<DataError>([&] { run(); }, "train-00000.tokens");
}

TEST_F(Prepare, AnEmptyFolderAndLeftoversOfAKilledRunAreNoObstacle) {
  input("a.txt", test::small_corpus());
  std::filesystem::create_directory(options_.output);
  const auto left = folder_ / concat("out.partial-", host_name(), "-999999999-1");
  std::filesystem::create_directory(left);
  test::write_text(left / "train-00007.tokens", "half");
  run();
  EXPECT_THAT(test::entries(folder_.path()), ElementsAre("a.txt", "out"));
  EXPECT_FALSE(std::filesystem::exists(options_.output / "train-00007.tokens"));
}

TEST_F(Prepare, AnOutputThatAnotherProcessMadeMeanwhileStays) {
  input("a.txt", test::small_corpus());
  const auto others = [&](std::string_view what, std::uint64_t, std::uint64_t) {
    if (!what.starts_with("preparing")) return;
    std::filesystem::create_directories(options_.output);
    test::write_text(options_.output / "dataset.json", "theirs");
  };
  SerialFor serial;
  expect_error<UsageError>([&] { prepare(options_, serial, others); }, "out",
                           "another process meanwhile", "choose another folder");
  EXPECT_EQ(read_file(options_.output / "dataset.json"), "theirs");
  EXPECT_THAT(test::entries(folder_.path()), ElementsAre("a.txt", "out"));
}

TEST_F(Prepare, TooLittleInputIsAnError) {
  input("a.txt", "fox");
  options_.seq_len = 2000;
  expect_error<DataError>([&] { run(); }, "a.txt", "2001 ids", "1 documents", "smaller seq_len");
}

TEST_F(Prepare, TooMuchForValidationIsNamed) {
  input("a.txt", "some foxes jump over some dogs");
  options_.valid_fraction = 0.999;
  expect_error<DataError>([&] { run(); }, "valid_fraction 0.999 put 1 of 1 documents", "lower it");
}

/// A rename could not replace it, which would be found after the work.
TEST_F(Prepare, ALinkIsNoOutput) {
  input("a.txt", test::small_corpus());
  std::filesystem::create_directory(folder_ / "elsewhere");
  std::filesystem::create_directory_symlink(folder_ / "elsewhere", options_.output);
  expect_error<UsageError>([&] { run(); }, "out is a link");
  // But what is there already may lie anywhere.
  const auto link = options_.output;
  options_.output = folder_ / "elsewhere";
  run();
  options_.output = link;
  EXPECT_TRUE(run().already_done);
}

TEST_F(Prepare, BadOptionsAreNamed) {
  input("a.txt", "text");
  const PrepareOptions good = options_;
  const auto bad = [&](auto change, const std::string& part) {
    options_ = good;
    change(options_);
    expect_error<UsageError>([&] { run(); }, part);
  };
  bad([](auto& o) { o.inputs.clear(); }, "at least one input");
  bad([](auto& o) { o.output.clear(); }, "output folder");
  bad([](auto& o) { o.seq_len = 0; }, "seq_len: expected 1 to");
  bad([](auto& o) { o.valid_fraction = 1; },
      "valid_fraction: expected at least 0 and below 1, found 1");
  bad([](auto& o) { o.valid_fraction = -0.1; }, "found -0.1");
  bad([](auto& o) { o.separator.clear(); }, "separator");
  bad([](auto& o) { o.tokenizer.clear(); },
      "needs a tokenizer (tokenizer.model or tokenizer.json)");
  bad(
      [](auto& o) {
        o.tokenizer.clear();
        o.format = InputFormat::kJsonLines;
      },
      "vocab_size: expected 1 to");
}

TEST_F(Prepare, AnOutputThatCannotBeMadeIsADiskError) {
  input("a.txt", "text");
  options_.output = folder_ / "a.txt" / "below";
  expect_error<DiskError>([&] { run(); }, "below.partial");
}

TEST_F(Prepare, ReportsProgressUpToTheEnd) {
  input("a.txt", test::small_corpus());
  options_.separator = "\n";
  std::uint64_t last = 0, size = 0;
  SerialFor serial;
  prepare(options_, serial, [&](std::string_view what, std::uint64_t done, std::uint64_t total) {
    if (!what.starts_with("preparing")) return;
    EXPECT_GE(done, last);
    last = done;
    size = total;
  });
  EXPECT_EQ(last, size);
  EXPECT_EQ(size, std::filesystem::file_size(folder_ / "a.txt"));
}

TEST_F(Prepare, ShakespeareWithLlama2) {
  FBI_SHARED_OR_SKIP(model, "data/llama2-tokenizer.model");
  FBI_SHARED_OR_SKIP(corpus, "data/tinyshakespeare.txt");
  options_.inputs = {corpus};
  options_.tokenizer = model;
  options_.seq_len = 128;
  options_.valid_fraction = 0.1;
  ThreadPool pool(2);
  const PrepareResult result = prepare(options_, pool);
  EXPECT_EQ(result.train.documents + result.valid.documents, 7222);  // speeches of the text
  EXPECT_EQ(result.train.ids, result.train.samples * 129 + result.train.dropped_ids);
  EXPECT_EQ(result.train.ids + result.valid.ids, 369440);
  // The text comes back from the ids, document by document.
  const auto tokenizer = text::load_tokenizer(options_.output);
  const auto ids = ids_of_shards(options_.output, result.train.files);
  ASSERT_EQ(ids[0], 1);
  EXPECT_EQ(tokenizer->decode(std::span(ids).first(40)).substr(0, 40),
            "First Citizen:\nBefore we proceed any fur");
}

}  // namespace
}  // namespace fbi::data
