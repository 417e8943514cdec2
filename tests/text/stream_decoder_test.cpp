#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include "fbi/core/error.h"
#include "fbi/core/random.h"
#include "support/expect_error.h"
#include "support/shared_data.h"
#include "text/small_tokenizer.h"
#include "text/utf8.h"

namespace fbi::text {
namespace {

/// Random ids, a good part of them byte pieces, so that characters are cut in all places.
std::vector<std::int32_t> random_ids(RandomStream& random, std::int64_t vocab_size) {
  std::vector<std::int32_t> ids(random.next_below(24));
  for (auto& id : ids) {
    const bool byte = random.next_below(2) == 0;
    id = static_cast<std::int32_t>(random.next_below(byte ? 259 : vocab_size));
  }
  return ids;
}

void expect_same_as_sentencepiece(const Tokenizer& tokenizer) {
  sentencepiece::SentencePieceProcessor processor;
  ASSERT_TRUE(processor.Load(tokenizer.path().string()).ok());
  RandomStream random(7, 0);
  for (int round = 0; round < 4000; ++round) {
    const auto ids = random_ids(random, tokenizer.vocab_size());
    const std::string expected = processor.DecodeIds(ids);
    EXPECT_EQ(tokenizer.decode(ids), expected);
    const auto decoder = tokenizer.start_decoding();
    std::string streamed;
    for (const auto id : ids) {
      const std::string part = decoder->feed(id);
      EXPECT_TRUE(is_utf8(part));
      streamed += part;
    }
    EXPECT_EQ(streamed + decoder->finish(), expected);
  }
}

TEST(StreamDecoder, EqualsSentencePieceAndNeverCutsACharacter) {
  expect_same_as_sentencepiece(*test::SmallTokenizer::instance());
}

TEST(StreamDecoder, EqualsSentencePieceForLlama2) {
  FBI_SHARED_OR_SKIP(model, "data/llama2-tokenizer.model");
  expect_same_as_sentencepiece(*load_tokenizer(model));
}

TEST(StreamDecoder, HoldsBytesUntilTheCharacterIsWhole) {
  const Tokenizer& tokenizer = *test::SmallTokenizer::instance();
  const auto byte = [](int value) {
    return 3 + value;
  };  // byte pieces follow the three special ones
  const auto decoder = tokenizer.start_decoding();
  EXPECT_EQ(decoder->feed(tokenizer.bos_id()), "");
  EXPECT_EQ(decoder->feed(byte(0xF0)), "");
  EXPECT_EQ(decoder->feed(byte(0x9F)), "");
  EXPECT_EQ(decoder->feed(byte(0x98)), "");
  EXPECT_EQ(decoder->feed(byte(0x80)), "\xF0\x9F\x98\x80");
  EXPECT_EQ(decoder->feed(byte(0xE2)), "");
  EXPECT_EQ(decoder->feed(byte('a')),
            "\xEF\xBF\xBD"
            "a");
  EXPECT_EQ(decoder->feed(byte(0xC3)), "");
  EXPECT_EQ(decoder->finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(decoder->finish(), "");
}

TEST(StreamDecoder, RefusesIdsOutsideTheVocabulary) {
  const Tokenizer& tokenizer = *test::SmallTokenizer::instance();
  test::expect_error<UsageError>([&] { tokenizer.decode(std::vector<std::int32_t>{400}); }, "400");
  test::expect_error<UsageError>([&] { tokenizer.decode(std::vector<std::int32_t>{-1}); }, "-1");
}

}  // namespace
}  // namespace fbi::text
