#include <gmock/gmock.h>

#include "data/data_files.h"
#include "fbi/core/error.h"
#include "fbi/data/sample_source.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi::data {
namespace {

using test::expect_error;
using test::read_sample;
using ::testing::ElementsAre;

class TokenWindows : public ::testing::Test {
 protected:
  std::unique_ptr<SampleSource> open(const std::string& text) {
    test::write_text(folder_ / "w.jsonl", text);
    return open_token_windows(folder_ / "w.jsonl", 50);
  }
  test::TempDir folder_;
};

TEST_F(TokenWindows, ALineIsAWindow) {
  const auto windows = open("[1, 2]\n{\"token_ids\": [3, 4]}\n[5,6]\n\n");
  EXPECT_EQ(windows->sample_count(), 3);
  EXPECT_EQ(windows->ids_per_sample(), 2);
  EXPECT_THAT(read_sample(*windows, 0), ElementsAre(1, 2));
  EXPECT_THAT(read_sample(*windows, 1), ElementsAre(3, 4));
  EXPECT_THAT(read_sample(*windows, 2), ElementsAre(5, 6));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "w.jsonl.lines")) << "no index is left behind";
}

TEST_F(TokenWindows, AllMustHaveOneLength) {
  const auto windows = open("[1, 2]\n[1, 2, 3]\n");
  expect_error<DataError>([&] { read_sample(*windows, 1); }, "w.jsonl", "line 2",
                          "expected 2 ids as in line 1, found 3");
  expect_error<DataError>([&] { open("[]\n"); }, "line 1", "expected ids, found 0");
}

TEST_F(TokenWindows, IdsMustBeBelowTheVocabulary) {
  expect_error<DataError>([&] { open("[1, 50]\n"); }, "line 1", "id 2", "0 to 49", "found 50");
}

TEST_F(TokenWindows, APreparedShardGivesItsSamples) {
  test::write_shard(folder_ / "valid-00000.tokens", 3, 4, 7, 50);
  const auto windows = open_token_windows(folder_ / "valid-00000.tokens", 50);
  EXPECT_EQ(windows->sample_count(), 3);
  EXPECT_THAT(read_sample(*windows, 1), ElementsAre(8, 8, 8, 8));
  expect_error<DataError>([&] { open_token_windows(folder_ / "valid-00000.tokens", 49); },
                          "valid-00000.tokens", "at most 49", "found 50");
}

TEST_F(TokenWindows, MissingFilesAreNamed) {
  expect_error<DataError>([&] { open_token_windows(folder_ / "absent.jsonl", 50); },
                          "absent.jsonl");
  expect_error<DataError>([&] { open_token_windows(folder_ / "absent.tokens", 50); },
                          "absent.tokens");
}

}  // namespace
}  // namespace fbi::data
