#include "fbi/eval/windows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "eval/bigram_model.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/data/prepare.h"
#include "fbi/eval/perplexity.h"
#include "fbi/formats/token_shard.h"
#include "support/expect_error.h"
#include "support/shared_data.h"
#include "support/temp_dir.h"

namespace fbi::eval {
namespace {

using ::fbi::test::expect_error;
using ::fbi::test::TempDir;
using ::testing::ElementsAre;

std::vector<std::int32_t> window(const WindowSource& source, std::int64_t index) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(source.length));
  source.read(index, ids);
  return ids;
}

TEST(WindowsTest, AStreamIsCutWithoutOverlapAndItsTailDropped) {
  const WindowSource source = stream_windows({1, 2, 3, 4, 5, 6, 7, 8}, 3);
  EXPECT_EQ(source.count, 2);
  EXPECT_EQ(source.length, 3);
  EXPECT_THAT(window(source, 0), ElementsAre(1, 2, 3));
  EXPECT_THAT(window(source, 1), ElementsAre(4, 5, 6));
}

TEST(WindowsTest, MaxTokensShortensTheStreamFirst) {
  const std::vector<std::int32_t> ids(50);
  EXPECT_EQ(stream_windows(ids, 5).count, 10);
  EXPECT_EQ(stream_windows(ids, 5, 29).count, 5);
  EXPECT_EQ(stream_windows(ids, 5, 30).count, 6);
  EXPECT_EQ(stream_windows(ids, 5, 1000).count, 10);
}

TEST(WindowsTest, LessThanOneWindow) {
  const std::vector<std::int32_t> ids(50);
  expect_error<UsageError>(
      [&] {
        stream_windows({1, 2, 3, 4}, 5);
      },
      "has 4 tokens", "one window of 5", "smaller seq_len");
  expect_error<UsageError>([&] { stream_windows(ids, 5, 4); }, "has 4 tokens");
  expect_error<UsageError>([&] { stream_windows({}, 5); }, "has 0 tokens");
  expect_error<UsageError>([&] { stream_windows(ids, 1); }, "at least 2, found 1");
  expect_error<UsageError>([&] { stream_windows(ids, 5, -1); }, "max_tokens", "found -1");
}

TEST(WindowsTest, AllIdsOfAPreparedSampleAreOneWindow) {
  const TempDir dir;
  formats::TokenShardWriter writer(dir / "valid.tokens", {.vocab_size = 7, .ids_per_sample = 4});
  writer.add(std::vector<std::int32_t>{1, 2, 3, 4});
  writer.add(std::vector<std::int32_t>{4, 5, 6, 0});
  writer.finish();
  const WindowSource source = sample_windows(data::open_token_windows(dir / "valid.tokens", 7));
  EXPECT_EQ(source.count, 2);
  EXPECT_EQ(source.length, 4);
  EXPECT_THAT(window(source, 1), ElementsAre(4, 5, 6, 0));
  BigramModel model(7, /*max_position=*/3);  // 4 ids need 3 positions
  EXPECT_EQ(perplexity(model, source).tokens, 8);
}

TEST(WindowsTest, ALineOfJsonIsAWindow) {
  const TempDir dir;
  write_file(dir / "w.jsonl", "{\"token_ids\": [1, 2, 3]}\n{\"token_ids\": [3, 2, 1]}\n");
  const WindowSource source = sample_windows(data::open_token_windows(dir / "w.jsonl", 7));
  EXPECT_EQ(source.count, 2);
  EXPECT_THAT(window(source, 1), ElementsAre(3, 2, 1));
}

/// Published method: one BOS for the whole file, the windows of the raw stream after it.
TEST(WindowsTest, TextIsOneDocumentWithOneBos) {
  FBI_SHARED_OR_SKIP(model_file, "data/llama2-tokenizer.model");
  const auto tokenizer = text::load_tokenizer(model_file);
  const std::string text = "First line.\n\nSecond paragraph, after a blank line.\n\nThird.";
  const std::vector<std::int32_t> ids = text_tokens(*tokenizer, text);
  EXPECT_EQ(ids.front(), tokenizer->bos_id());
  EXPECT_EQ(std::count(ids.begin(), ids.end(), tokenizer->bos_id()), 1);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), tokenizer->eos_id()), 0);
  EXPECT_EQ(tokenizer->decode(ids), text);
  EXPECT_THAT(text_tokens(*tokenizer, ""), ElementsAre(tokenizer->bos_id()));
  // As the tokenizer of the published evaluation splits "the <unk> of <company>".
  std::vector<std::int32_t> split = {tokenizer->bos_id()};
  const auto add = [&](std::vector<std::int32_t> more) {
    split.insert(split.end(), more.begin(), more.end());
  };
  add(tokenizer->encode("the "));
  add({*tokenizer->unk_id()});
  add(tokenizer->encode(" of <company>"));
  add({tokenizer->eos_id()});
  EXPECT_EQ(text_tokens(*tokenizer, "the <unk> of <company></s>"), split);
  expect_error<DataError>(
      [&] { text_tokens(*tokenizer, std::string(data::kMaxDocumentBytes + 1, 'a')); }, "too large",
      "67.1 MB");
}

}  // namespace
}  // namespace fbi::eval
