// What `prepare` makes of the files that it is given: packed, broken, of another kind.
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <zstd.h>

#include <algorithm>

#include "data/data_files.h"
#include "data/prepare_fixture.h"
#include "fbi/core/error.h"
#include "support/entries.h"
#include "support/expect_error.h"

namespace fbi::data {
namespace {

using PrepareInput = test::PrepareFixture;
using test::expect_error;
using test::ids_of_shards;
using test::token_line;
using ::testing::ElementsAre;

TEST_F(PrepareInput, FilesOfAnotherKindAreNamedWithTheToolThatHelps) {
  const auto refused = [&](const std::string& name, const std::string& content,
                           const std::string& part, const std::string& remedy) {
    options_.inputs.clear();
    input(name, content);
    expect_error<DataError>([&] { run(); }, name, part, remedy);
  };
  refused("a.jsonl.xz", "\xfd\x37zXZ and more", "a file of xz", "xz -dk");
  refused("a.jsonl.bz2", "BZh91AY&SY and more", "a file of bzip2", "bzip2 -dk");
  refused("a.parquet", "PAR1\x15\x04 and more PAR1", "a file of Parquet", "JSON lines");
  refused("utf16.txt", std::string("t\0e\0x\0t\0", 8), "NUL bytes", "iconv -f UTF-16");
  refused("latin1.txt", "caf\xe9 na\xefve \xe9t\xe9 \xe0 la", "not UTF-8", "iconv -f CP1252");
  refused("lines.txt", "{\"text\": \"x\"}\n", "holds JSON, not text", "--format jsonl");
  refused("a.json", "\n [{\"text\": \"x\"}]", "a JSON array", "jq -c '.[]'");
}

TEST_F(PrepareInput, LinesOfTextWithoutAFieldAskForIt) {
  input("a.jsonl", "{\"id\": \"7\", \"text\": \"a fox\"}\n");
  const auto refused = [&](const std::string& part) {
    expect_error<UsageError>([&] { run(); }, part);
  };
  refused("a.jsonl, line 1: found no token_ids but a text; give --field text");
  options_.tokenizer.clear();
  refused("give --field text");
  test::write_text(folder_ / "a.jsonl", "{\"body\": \"a fox\"}\n");
  refused("give --field body");
  options_.inputs.clear();
  input("a.txt", "a fox");
  options_.tokenizer = tokenizer_.path();
  options_.field = "text";
  refused("field text is for JSON lines, but the input is read as text");
}

TEST_F(PrepareInput, BrokenInputIsNamedAndLeavesNothing) {
  ids_only(100);
  input("a.jsonl", token_line(0, 8) + "\n" + token_line(95, 8) + "\n{\"token_ids\":\n");
  ThreadPool pool(2);
  expect_error<DataError>([&] { prepare(options_, pool); }, "a.jsonl", "line 2", "found 100");
  EXPECT_THAT(test::entries(folder_.path()), ElementsAre("a.jsonl"));
  options_.field = "text";
  options_.tokenizer = tokenizer_.path();
  expect_error<DataError>([&] { run(); }, "a.jsonl", "line 1", "{\"text\": \"text\"}", "token_ids");
  test::write_text(options_.inputs[0], "{\"text\": 5}\n");
  expect_error<DataError>([&] { run(); }, "a.jsonl", "line 1", "no string");
  options_.inputs = {folder_ / "absent.txt"};
  options_.field.clear();
  expect_error<DataError>([&] { run(); }, "absent.txt");
}

TEST_F(PrepareInput, SomeBrokenLinesMayBeLeftOut) {
  ids_only(100);
  const std::string whole = token_line(0, 8) + "\n" + token_line(20, 8) + "\n";
  input("a.jsonl", whole);
  const PrepareResult expected = run();
  const auto ids = ids_of_shards(options_.output, expected.train.files);
  EXPECT_EQ(expected.broken_documents, 0);

  options_.output = folder_ / "mended";
  test::write_text(options_.inputs[0], token_line(0, 8) + "\n{\"token_ids\":\n" +
                                           token_line(20, 8) + "\n" + token_line(95, 8) + "\n");
  options_.skip_broken = 1;
  expect_error<DataError>([&] { run(); }, "a.jsonl", "line 4", "found 100", "more than 1 broken");
  options_.skip_broken = 2;
  const PrepareResult result = run();
  EXPECT_EQ(result.broken_documents, 2);
  EXPECT_EQ(result.train.documents, 2);
  EXPECT_EQ(ids_of_shards(options_.output, result.train.files), ids);
  const PrepareResult again = run();
  EXPECT_TRUE(again.already_done);
  EXPECT_EQ(again.broken_documents, 2);
  options_.skip_broken = 3;
  expect_error<UsageError>([&] { run(); }, "prepared otherwise", "options/skip_broken");
}

/// They count where documents are held out, so that mending them changes no other.
TEST_F(PrepareInput, WhatIsLeftOutKeepsItsNumber) {
  ids_only(100);
  options_.valid_fraction = 0.5;
  std::string broken, whole;
  for (int k = 0; k < 40; ++k) {
    const std::string line = token_line(k, 8) + "\n";
    whole += line;
    broken += k % 7 == 3 ? "{\n" : line;
  }
  input("a.jsonl", whole);
  const PrepareResult expected = run();
  const auto valid = ids_of_shards(options_.output, expected.valid.files);
  options_.output = folder_ / "out-broken";
  test::write_text(options_.inputs[0], broken);
  options_.skip_broken = 40;
  const PrepareResult result = run();
  EXPECT_EQ(result.broken_documents, 6);
  const auto held_out = ids_of_shards(options_.output, result.valid.files);
  ASSERT_GT(held_out.size(), 8u * 5);
  EXPECT_TRUE(std::ranges::includes(valid, held_out));
}

TEST_F(PrepareInput, WhatWasCutOffLeavesNothing) {
  ids_only(100);
  std::string lines;
  for (int k = 0; k < 50; ++k) lines += token_line(k, 8) + "\n";
  std::string packed(ZSTD_compressBound(lines.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), lines.data(), lines.size(), 1));
  input("a.jsonl.zst", packed.substr(0, packed.size() / 2));
  expect_error<DataError>([&] { run(); }, "a.jsonl.zst", "ends in the middle");
  EXPECT_THAT(test::entries(folder_.path()), ElementsAre("a.jsonl.zst"));
}

/// Read in pieces of 8 MiB, whose borders lie within lines.
TEST_F(PrepareInput, LargeAndPackedInputGivesTheSameShards) {
  ids_only(100);
  std::string lines;
  while (lines.size() < (9u << 20))
    lines += token_line(static_cast<int>(lines.size() % 60), 8) + "\n";
  input("a.jsonl", lines);
  const PrepareResult plain = run();
  const auto ids = ids_of_shards(options_.output, plain.train.files);
  EXPECT_EQ(plain.train.documents, std::ranges::count(lines, '\n'));

  options_.output = folder_ / "of-packed";
  options_.inputs = {folder_ / "a.jsonl.zst"};
  std::string packed(ZSTD_compressBound(lines.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), lines.data(), lines.size(), 1));
  test::write_text(options_.inputs[0], packed);
  EXPECT_EQ(ids_of_shards(options_.output, run().train.files), ids);
}

TEST_F(PrepareInput, PipesAreRefused) {
  ids_only(100);
  options_.inputs = {folder_ / "pipe.jsonl"};
  ASSERT_EQ(mkfifo(options_.inputs[0].c_str(), 0600), 0);
  expect_error<UsageError>([&] { run(); }, "pipe.jsonl is a pipe", "make a file of it");
}

TEST_F(PrepareInput, ADocumentWithoutSeparatorIsRefusedWhenHuge) {
  input("a.txt", std::string(kMaxDocumentBytes + 1, 'a'));
  expect_error<DataError>([&] { run(); }, "a.txt", "document 1", "at most 67108864", "separator");
}

}  // namespace
}  // namespace fbi::data
