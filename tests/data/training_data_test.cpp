#include "fbi/data/training_data.h"

#include <gmock/gmock.h>

#include <set>

#include "data/data_files.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi::data {
namespace {

using test::expect_error;
using test::token_line;
using test::write_shard;
using test::write_text;

class OpenTrainingData : public ::testing::Test {
 protected:
  OpenTrainingData() {
    train_.seq_len = 4;
    data_.paths = {folder_.path().string()};
  }
  std::unique_ptr<TrainingData> open(std::int64_t vocab_size = 1000) {
    return open_training_data(data_, train_, vocab_size);
  }
  /// Each value of the first id of the samples of one epoch.
  std::multiset<std::int32_t> first_ids(const TrainingData& data) {
    std::multiset<std::int32_t> values;
    for (std::int64_t p = 0; p < data.samples_per_epoch(); ++p) {
      std::vector<std::int32_t> ids(data.ids_per_sample());
      data.read(p, 1, ids);
      values.insert(ids[0]);
    }
    return values;
  }

  test::TempDir folder_;
  config::DataConfig data_;
  config::TrainConfig train_;
};

TEST_F(OpenTrainingData, AFolderGivesItsTrainingShardsInOrderOfName) {
  write_shard(folder_ / "train-00001.tokens", 2, 5, 10);
  write_shard(folder_ / "train-00000.tokens", 3, 5, 0);
  write_shard(folder_ / "valid-00000.tokens", 2, 5, 20);
  write_text(folder_ / "dataset.json", "{}");
  const auto data = open();
  EXPECT_EQ(data->ids_per_sample(), 5);
  EXPECT_EQ(first_ids(*data), (std::multiset<std::int32_t>{0, 1, 2, 10, 11}));
  std::vector<std::int32_t> ids(5);
  data->read(3, 1, ids);
  EXPECT_GE(ids[0], 10) << "the fourth sample is of the second file";
}

TEST_F(OpenTrainingData, FilesComeInTheOrderGivenAndAValidationShardMayBeNamed) {
  write_shard(folder_ / "valid-00000.tokens", 2, 5, 20);
  write_shard(folder_ / "a.tokens", 1, 5, 7);
  data_.paths = {(folder_ / "valid-00000.tokens").string(), (folder_ / "a.tokens").string()};
  const auto data = open();
  std::vector<std::int32_t> ids(5);
  data->read(2, 1, ids);
  EXPECT_THAT(ids, ::testing::Each(7));
}

TEST_F(OpenTrainingData, SkippedFilesAreLeftOutUnopened) {
  write_shard(folder_ / "0.tokens", 1, 5, 0);
  write_text(folder_ / "1.tokens", "broken");
  write_shard(folder_ / "2.tokens", 1, 5, 20);
  data_.skip_files = {1};
  EXPECT_EQ(first_ids(*open()), (std::multiset<std::int32_t>{0, 20}));
  data_.skip_files = {3};
  expect_error<UsageError>([&] { open(); }, "data.skip_files", "0 to 2", "found 3");
  data_.skip_files = {-1};
  expect_error<UsageError>([&] { open(); }, "data.skip_files", "found -1");
  data_.skip_files = {0, 1, 2};
  expect_error<UsageError>([&] { open(); }, "data.skip_files leaves none");
}

TEST_F(OpenTrainingData, ContentsAreThoseOfTheFilesThatAreRead) {
  write_shard(folder_ / "0.tokens", 1, 5, 0);
  write_text(folder_ / "1.tokens", "broken");
  write_shard(folder_ / "2.tokens", 2, 5, 20);
  data_.skip_files = {1};
  const auto contents = training_contents(data_);
  ASSERT_EQ(contents.size(), 2u);
  EXPECT_EQ(contents[1].name, "2.tokens");
  EXPECT_EQ(contents[1].bytes, 128 + 2 * 5 * 2u);
  EXPECT_EQ(contents[1].xxh3_128, formats::TokenShard(folder_ / "2.tokens").info().samples_hash);
  EXPECT_NE(contents[0].xxh3_128, contents[1].xxh3_128);
  data_.skip_files = {};
  expect_error<DataError>([&] { training_contents(data_); }, "1.tokens");
}

TEST_F(OpenTrainingData, AmberLinesAreSamples) {
  data_.format = config::DataFormat::kAmber;
  data_.index_dir = (folder_ / "index").string();
  write_text(folder_ / "train_000.jsonl", token_line(1, 5) + "\n" + token_line(11, 5) + "\n");
  // Shorter than the others, which is fine.
  write_text(folder_ / "train_001.jsonl", token_line(21, 5));
  EXPECT_EQ(first_ids(*open()), (std::multiset<std::int32_t>{1, 11, 21}));
  expect_error<DataError>([&] { open(25); }, "train_001.jsonl", "line 1", "expected 0 to 24",
                          "found 25");
  train_.seq_len = 8;
  expect_error<DataError>([&] { open(); }, "train_000.jsonl", "line 1",
                          "expected 9 ids (train.seq_len + 1)", "found 5");
}

TEST_F(OpenTrainingData, WeightsMixTheEntriesOfPaths) {
  std::filesystem::create_directory(folder_ / "web");
  write_shard(folder_ / "web/0.tokens", 3, 5, 0);
  write_shard(folder_ / "web/1.tokens", 3, 5, 10);
  write_shard(folder_ / "books.tokens", 2, 5, 20);
  data_.paths = {(folder_ / "web").string(), (folder_ / "books.tokens").string()};
  data_.weights = {3, 1};
  const auto data = open();
  ASSERT_EQ(data->corpora().size(), 2u);
  EXPECT_EQ(data->corpora()[0].files, 2);
  EXPECT_EQ(data->corpora()[1].path, data_.paths[1]);
  std::multiset<std::int32_t> values;
  std::vector<std::int32_t> ids(5);
  for (std::int64_t p = 0; p < 8; ++p) {
    data->read(p, 1, ids);
    values.insert(ids[0]);
  }
  EXPECT_EQ(values, (std::multiset<std::int32_t>{0, 1, 2, 10, 11, 12, 20, 21}));
}

TEST_F(OpenTrainingData, SkippedFilesAreCountedOverAllMixedEntries) {
  for (const char* name : {"web", "books"}) std::filesystem::create_directory(folder_ / name);
  write_shard(folder_ / "web/0.tokens", 1, 5, 0);
  write_shard(folder_ / "web/1.tokens", 1, 5, 10);
  write_shard(folder_ / "books/0.tokens", 1, 5, 20);
  write_text(folder_ / "books/1.tokens", "broken");
  data_.paths = {(folder_ / "web").string(), (folder_ / "books").string()};
  data_.weights = {0.5, 0.5};
  data_.skip_files = {0, 3};
  const auto data = open();
  EXPECT_EQ(data->sample_at(0).file, 1);
  EXPECT_EQ(data->sample_at(1).file, 2);
  data_.skip_files = {2, 3};
  expect_error<UsageError>([&] { open(); }, "data.skip_files leaves none of the 2 files of",
                           data_.paths[1], "data.weights[1] is 0.5",
                           "take the entry out of data.paths and data.weights");
}

TEST_F(OpenTrainingData, AmberFilesAreMixedToo) {
  data_.format = config::DataFormat::kAmber;
  write_text(folder_ / "a.jsonl", token_line(1, 5) + "\n" + token_line(11, 5) + "\n");
  write_text(folder_ / "b.jsonl", token_line(21, 5));
  data_.paths = {(folder_ / "a.jsonl").string(), (folder_ / "b.jsonl").string()};
  data_.weights = {1, 2};
  const auto data = open();
  EXPECT_EQ(data->sample_at(0).file, 1);
  EXPECT_EQ(data->sample_at(1).file, 0);
  EXPECT_EQ(data->sample_at(2), (SampleId{1, 1, 0}));
}

TEST_F(OpenTrainingData, AWeightTooSmallIsNamed) {
  write_shard(folder_ / "a.tokens", 1, 5);
  data_.paths = {(folder_ / "a.tokens").string(), (folder_ / "a.tokens").string()};
  data_.weights = {1e-6, 1};
  expect_error<UsageError>([&] { open(); }, "data.weights[0] = 1e-06");
}

TEST_F(OpenTrainingData, ShardsMustFitTheConfiguration) {
  write_shard(folder_ / "a.tokens", 1, 5);
  train_.seq_len = 8;
  expect_error<DataError>([&] { open(); }, "a.tokens",
                          "expected 9 ids per sample (train.seq_len 8 + 1), found 5",
                          "set train.seq_len=4", "--seq-len 8");
  train_.seq_len = 4;
  expect_error<DataError>([&] { open(999); }, "a.tokens", "expected a vocabulary of at most 999",
                          "found 1000");
  EXPECT_NO_THROW(open(1064)) << "a padded vocabulary is fine";
}

TEST_F(OpenTrainingData, ShardsMustShareATokenizer) {
  const std::string first(32, 'a'), second(32, 'b');
  write_shard(folder_ / "0.tokens", 1, 5, 0, 1000, first);
  write_shard(folder_ / "1.tokens", 1, 5, 0, 1000, "");
  EXPECT_EQ(open()->tokenizer_hash(), first);
  write_shard(folder_ / "2.tokens", 1, 5, 0, 1000, second);
  expect_error<DataError>([&] { open(); }, "2.tokens", first, second, "one tokenizer");
}

TEST_F(OpenTrainingData, MissingAndEmptyPathsAreNamed) {
  expect_error<DataError>([&] { open(); }, folder_.path().string(), "*.tokens",
                          "data.format=shards");
  data_.paths = {(folder_ / "absent").string()};
  expect_error<DataError>([&] { open(); }, "data.paths", "absent");
  data_.paths.clear();
  expect_error<UsageError>([&] { open(); }, "data.paths is empty");
}

TEST_F(OpenTrainingData, ATruncatedShardIsRefusedAndAnAlteredOneWhenRead) {
  write_shard(folder_ / "a.tokens", 20, 5);
  const std::string good = read_file(folder_ / "a.tokens");
  write_text(folder_ / "a.tokens", good.substr(0, good.size() - 3));
  expect_error<DataError>([&] { open(); }, "a.tokens");
  std::string altered = good;
  altered[altered.size() - 1] = static_cast<char>(altered.back() ^ 1);
  write_text(folder_ / "a.tokens", altered);
  const auto data = open();
  std::vector<std::int32_t> ids(5);
  expect_error<DataError>([&] { data->read(0, 1, ids); }, "a.tokens", "altered");
}

TEST_F(OpenTrainingData, FindsTheTokenizerBesideTheData) {
  EXPECT_EQ(find_tokenizer(data_), std::nullopt);
  write_text(folder_ / "tokenizer.model", "x");
  EXPECT_EQ(find_tokenizer(data_), folder_ / "tokenizer.model");
  data_.paths = {(folder_ / "train-00000.tokens").string()};
  EXPECT_EQ(find_tokenizer(data_), folder_ / "tokenizer.model");
}

}  // namespace
}  // namespace fbi::data
