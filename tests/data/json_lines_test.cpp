#include <gmock/gmock.h>

#include <chrono>
#include <numeric>
#include <thread>

#include "data/data_files.h"
#include "data/line_index.h"
#include "data/token_line.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/log.h"
#include "fbi/core/system.h"
#include "fbi/data/sample_source.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi::data {
namespace {

using test::expect_error;
using test::read_sample;
using test::token_line;
using test::write_text;
using ::testing::ElementsAre;

class JsonLines : public ::testing::Test {
 protected:
  std::unique_ptr<SampleSource> open(const std::string& text) {
    write_text(file_, text);
    return reopen();
  }
  std::unique_ptr<SampleSource> reopen() { return open_json_lines(file_, options_); }
  /// What a source looks lines up in. Counts in builds_ how often the data was scanned for it.
  LineIndex index() {
    return LineIndex::load_or_build(
        MappedFile(file_), line_index_path(file_, options_.index_dir),
        [this](std::string_view what, std::uint64_t done, std::uint64_t total) {
          EXPECT_EQ(what, "indexing " + file_.string());
          EXPECT_LE(done, total);
          if (done == total) ++builds_;
        });
  }
  std::string read_error(const std::string& second_line) {
    const auto source =
        open(token_line(1, 3) + "\n" + second_line + "\n" + token_line(7, 3) + "\n");
    EXPECT_EQ(source->sample_count(), 3);
    EXPECT_THAT(read_sample(*source, 2), ElementsAre(7, 8, 9))
        << "a broken line must not harm others";
    return expect_error<DataError>([&] { read_sample(*source, 1); }, file_.string(), "line 2");
  }

  test::TempDir folder_;
  std::filesystem::path file_ = folder_ / "data.jsonl";
  JsonLinesOptions options_{.ids_per_sample = 3, .vocab_size = 100};
  int builds_ = 0;
};

TEST_F(JsonLines, ReadsSamplesInAnyOrder) {
  const auto source =
      open(token_line(1, 3) + "\n" + token_line(4, 3) + "\n" + token_line(7, 3) + "\n");
  EXPECT_EQ(source->sample_count(), 3);
  EXPECT_EQ(source->ids_per_sample(), 3);
  EXPECT_THAT(read_sample(*source, 2), ElementsAre(7, 8, 9));
  EXPECT_THAT(read_sample(*source, 0), ElementsAre(1, 2, 3));
  EXPECT_THAT(read_sample(*source, 1), ElementsAre(4, 5, 6));
  expect_error<UsageError>([&] { read_sample(*source, 3); }, "below 3", "found sample 3");
  std::vector<std::int32_t> short_buffer(2);
  expect_error<UsageError>([&] { source->read(0, short_buffer); }, "room for 2");
}

TEST_F(JsonLines, EndsOfLinesAndFileMayVary) {
  for (const char* line_break : {"\n", "\r\n"}) {
    for (const char* end : {"", "\n", "\r\n", "\n\n\n", "\n  \r\n\t"}) {
      const auto source = open(token_line(1, 3) + line_break + token_line(4, 3) + end);
      EXPECT_EQ(source->sample_count(), 2);
      EXPECT_THAT(read_sample(*source, 0), ElementsAre(1, 2, 3));
      EXPECT_THAT(read_sample(*source, 1), ElementsAre(4, 5, 6));
    }
  }
}

TEST_F(JsonLines, OtherKeysAndSpacesAreIgnored) {
  const auto source = open(" {\"source\": {\"name\": \"x\"}, \"token_ids\" :[ 0,99 , 5 ]}  \n");
  EXPECT_THAT(read_sample(*source, 0), ElementsAre(0, 99, 5));
}

TEST_F(JsonLines, BrokenLinesAreNamed) {
  using ::testing::HasSubstr;
  EXPECT_THAT(read_error("{\"token_ids\": [1, 2"), HasSubstr("broken JSON"));
  EXPECT_THAT(read_error("{\"token_ids\": [1, 2, 3]} x"), HasSubstr("broken JSON"));
  EXPECT_THAT(read_error("{\"token_ids\": [1, 2, 3]}{\"token_ids\": [1, 2, 3]}"),
              HasSubstr("broken JSON"));
  EXPECT_THAT(read_error("{\"token_ids\": [1, 2, 3]}\x01"), HasSubstr("broken JSON"));
  EXPECT_THAT(read_error("\xFF\xFE"), HasSubstr("broken JSON"));
  EXPECT_THAT(read_error(""), HasSubstr("empty line"));
  EXPECT_THAT(read_error("[1, 2, 3]"), HasSubstr("expected {\"token_ids\": [ids]}"));
  EXPECT_THAT(read_error("{\"tokens\": [1, 2, 3], \"n\": 3}"),
              HasSubstr("found the keys tokens, n"));
  EXPECT_THAT(read_error("{}"), HasSubstr("found the keys (none)"));
  EXPECT_THAT(read_error("{\"token_ids\": 3}"), HasSubstr("no array"));
}

TEST_F(JsonLines, WrongIdsAreNamed) {
  using ::testing::HasSubstr;
  EXPECT_THAT(read_error("{\"token_ids\": [1, 2]}"),
              HasSubstr("expected 3 ids (train.seq_len + 1), found 2"));
  EXPECT_THAT(read_error("{\"token_ids\": [1, 2, 3, 4]}"), HasSubstr("found 4"));
  EXPECT_THAT(read_error("{\"token_ids\": []}"), HasSubstr("found 0"));
  EXPECT_THAT(read_error("{\"token_ids\": [1, 2, 100]}"),
              HasSubstr("id 3: expected 0 to 99 (the vocabulary), found 100"));
  EXPECT_THAT(read_error("{\"token_ids\": [1, -2, 3]}"),
              HasSubstr("id 2: expected 0 to 99 (the vocabulary), found -2"));
  EXPECT_THAT(read_error("{\"token_ids\": [1, 2.5, 3]}"),
              HasSubstr("id 2: expected an integer, found 2.5"));
  EXPECT_THAT(read_error("{\"token_ids\": [1, 2.0, 3]}"), HasSubstr("id 2: expected an integer"));
  EXPECT_THAT(read_error("{\"token_ids\": [\"1\", 2, 3]}"),
              HasSubstr("id 1: expected an integer, found \"1\""));
  EXPECT_THAT(read_error("{\"token_ids\": [null, 2, 3]}"),
              HasSubstr("id 1: expected an integer, found null"));
  EXPECT_THAT(read_error("{\"token_ids\": [1, [2], 3]}"), HasSubstr("id 2: expected an integer"));
  EXPECT_THAT(read_error("{\"token_ids\": [1, 2, 18446744073709551615]}"),
              HasSubstr("id 3: expected an integer"));
  EXPECT_THAT(read_error("{\"token_ids\": [1, 2, 4294967297]}"), HasSubstr("found 4294967297"));
}

TEST_F(JsonLines, TheFirstLineIsCheckedWhenOpened) {
  expect_error<DataError>([&] { open(token_line(1, 4) + "\n"); }, "line 1", "expected 3 ids",
                          "found 4");
  expect_error<DataError>([&] { open("not json"); }, "line 1", "broken JSON");
  expect_error<DataError>([&] { open(""); }, file_.string(), "empty file");
  expect_error<DataError>([&] { open("\n\n"); }, file_.string(), "empty file");
  open(token_line(1, 3) + "\n");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "data.jsonl.lines"))
      << "opening must not scan the file";
  file_ = folder_ / "absent.jsonl";
  expect_error<DataError>([&] { reopen(); }, "absent.jsonl");
}

TEST_F(JsonLines, AHugeLineIsRefusedNotParsed) {
  const std::string huge = "{\"token_ids\": [" + std::string(kMaxLineBytes, ' ') + "1]}";
  const auto message = read_error(huge);
  EXPECT_THAT(message, ::testing::HasSubstr("expected at most 67108864 bytes"));
  expect_error<DataError>([&] { open(huge); }, "line 1", "is this a file of JSON lines?");
}

TEST_F(JsonLines, TheIndexIsBuiltOnceAndKept) {
  const std::string text = token_line(1, 3) + "\n" + token_line(4, 3) + "\n";
  EXPECT_EQ(open(text)->sample_count(), 2);
  EXPECT_EQ(index().line_count(), 2);
  EXPECT_EQ(builds_, 0) << "the source has kept it";
  std::filesystem::remove(folder_ / "data.jsonl.lines");
  for (int time = 0; time < 2; ++time) {
    EXPECT_EQ(index().line_count(), 2);
    EXPECT_EQ(builds_, 1);
  }
  const auto again = reopen();
  EXPECT_EQ(again->sample_count(), 2);
  EXPECT_THAT(read_sample(*again, 1), ElementsAre(4, 5, 6));
}

TEST_F(JsonLines, OfManyReadersAtOnceOneBuildsTheIndex) {
  write_text(file_, token_line(1, 3) + "\n" + token_line(4, 3) + "\n");
  std::vector<std::thread> readers;
  for (int reader = 0; reader < 8; ++reader) readers.emplace_back([&] { index(); });
  for (auto& reader : readers) reader.join();
  EXPECT_EQ(builds_, 1);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "data.jsonl.lines"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "data.jsonl.lines.lock"));
}

TEST_F(JsonLines, TheIndexIsRebuiltWhenTheDataChanges) {
  write_text(file_, token_line(1, 3) + "\n");
  index();
  const auto time = std::filesystem::last_write_time(file_);
  write_text(file_, token_line(1, 3) + "\n" + token_line(4, 3) + "\n");
  EXPECT_EQ(index().line_count(), 2) << "size";
  EXPECT_EQ(builds_, 2);
  // Same size and time: only head and tail tell.
  const auto second_time = std::filesystem::last_write_time(file_);
  write_text(file_, token_line(1, 3) + std::string(std::filesystem::file_size(file_) / 2, ' '));
  std::filesystem::last_write_time(file_, second_time);
  EXPECT_EQ(index().line_count(), 1) << "content";
  EXPECT_EQ(builds_, 3);
  std::filesystem::last_write_time(file_, time - std::chrono::seconds(5));
  index();
  EXPECT_EQ(builds_, 4) << "time";
  index();
  EXPECT_EQ(builds_, 4);
}

TEST_F(JsonLines, ADamagedIndexIsRebuilt) {
  const std::string text = token_line(1, 3) + "\n" + token_line(4, 3) + "\n";
  open(text)->sample_count();
  const auto index_file = folder_ / "data.jsonl.lines";
  const std::string good = read_file(index_file);
  std::vector<std::string> damaged = {"", good.substr(0, 50), good.substr(0, good.size() - 8),
                                      good + std::string(8, '\0')};
  for (std::size_t at = 0; at < good.size(); at += 5) {
    damaged.push_back(good);
    damaged.back()[at] = static_cast<char>(damaged.back()[at] ^ 1);
  }
  const MappedFile data(file_);
  for (const std::string& bytes : damaged) {
    write_text(index_file, bytes);
    builds_ = 0;
    EXPECT_EQ(index().line(data, 1), token_line(4, 3));
    EXPECT_EQ(builds_, 1);
    EXPECT_EQ(read_file(index_file), good);
  }
}

TEST_F(JsonLines, IndexDirTellsFilesOfOneNameApart) {
  options_.index_dir = folder_ / "indexes";
  open(token_line(1, 3) + "\n")->sample_count();
  std::filesystem::create_directory(folder_ / "other");
  file_ = folder_ / "other" / "data.jsonl";
  EXPECT_EQ(open(token_line(1, 3) + "\n" + token_line(4, 3) + "\n")->sample_count(), 2);
  EXPECT_NE(line_index_path(folder_ / "data.jsonl", options_.index_dir),
            line_index_path(file_, options_.index_dir));
  std::size_t indexes = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(options_.index_dir))
    ++indexes;
  EXPECT_EQ(indexes, 2u);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "data.jsonl.lines"));
}

TEST_F(JsonLines, AnIndexThatCannotBeKeptIsAWarning) {
  write_text(folder_ / "file", "");
  // A file where a folder should be; root may write anywhere.
  options_.index_dir = folder_ / "file" / "below";
  const log::FileSink sink((folder_ / "log").string());
  const auto source = open(token_line(1, 3) + "\n");
  EXPECT_THAT(read_sample(*source, 0), ElementsAre(1, 2, 3));
  log::reset();
  EXPECT_THAT(read_file(folder_ / "log"), ::testing::HasSubstr("data.index_dir"));
}

TEST_F(JsonLines, TheLogSaysHowFarAnIndexHasCome) {
  const log::FileSink sink((folder_ / "log").string());
  log_progress(std::chrono::hours(1))("indexing a", 1, 4);
  EXPECT_EQ(read_file(folder_ / "log"), "") << "not before the interval is over";
  log_progress(std::chrono::seconds(0))("indexing a", 1, 4);
  log::reset();
  EXPECT_THAT(read_file(folder_ / "log"), ::testing::HasSubstr("info indexing a: 25 %"));
}

TEST_F(JsonLines, TheFileIsNeverInMemoryAsAWhole) {
  constexpr int kLines = 1500;
  constexpr std::uint64_t kLineBytes = 64 << 10;
  {
    std::ofstream file(file_, std::ios::binary);
    const std::string padding(kLineBytes, ' ');
    for (int line = 0; line < kLines; ++line) file << token_line(line % 90, 3) << padding << "\n";
  }
  // Of 98 MB, a tenth: the parser, and pages that other faults brought along.
  const std::uint64_t limit = resident_bytes() + kLines * kLineBytes / 10;
  const auto source = reopen();
  EXPECT_EQ(source->sample_count(), kLines);
  EXPECT_LT(resident_bytes(), limit) << "the scan for lines keeps pages";
  for (int line = 0; line < kLines; ++line) EXPECT_EQ(read_sample(*source, line)[0], line % 90);
  EXPECT_LT(resident_bytes(), limit) << "reading samples keeps pages";
}

TEST_F(JsonLines, ManyThreadsReadTheSame) {
  std::string text;
  for (int line = 0; line < 50; ++line) text += token_line(line, 3) + "\n";
  const auto source = open(text);
  std::vector<std::thread> threads;
  std::vector<std::int64_t> sums(4);
  for (std::int64_t& sum : sums) {
    threads.emplace_back([&source, &sum] {
      for (std::int64_t k = 0; k < 50; ++k) {
        const auto ids = read_sample(*source, k);
        sum += std::accumulate(ids.begin(), ids.end(), 0) * (k + 1);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  std::int64_t expected = 0;
  for (std::int64_t k = 0; k < 50; ++k) expected += (3 * k + 3) * (k + 1);
  EXPECT_THAT(sums, ::testing::Each(expected));
}

}  // namespace
}  // namespace fbi::data
