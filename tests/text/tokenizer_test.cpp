#include "fbi/text/tokenizer.h"

#include <gmock/gmock.h>

#include <fstream>
#include <sstream>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/hash.h"
#include "support/expect_error.h"
#include "support/shared_data.h"
#include "text/small_tokenizer.h"

namespace fbi::text {
namespace {

using test::expect_error;
using ::testing::ElementsAre;

TEST(Tokenizer, KnowsTheSpecialPieces) {
  const Tokenizer& tokenizer = *test::SmallTokenizer::instance();
  EXPECT_EQ(tokenizer.vocab_size(), 400);
  EXPECT_EQ(tokenizer.unk_id(), 0);
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_EQ(tokenizer.pad_id(), std::nullopt);
  EXPECT_EQ(tokenizer.piece(0), "<unk>");
  EXPECT_EQ(tokenizer.piece(1), "<s>");
  EXPECT_EQ(tokenizer.piece(2), "</s>");
  EXPECT_EQ(tokenizer.type(0), PieceType::kUnknown);
  EXPECT_EQ(tokenizer.type(1), PieceType::kControl);
  EXPECT_EQ(tokenizer.type(2), PieceType::kControl);
  EXPECT_EQ(tokenizer.piece(3 + 0x0A), "<0x0A>");
  EXPECT_EQ(tokenizer.type(3 + 0x0A), PieceType::kByte);
  EXPECT_EQ(tokenizer.type(399), PieceType::kNormal);
  EXPECT_GT(tokenizer.score(259), tokenizer.score(399));
  EXPECT_TRUE(tokenizer.adds_space_prefix());
  expect_error<UsageError>([&] { tokenizer.piece(400); }, "400");
}

TEST(Tokenizer, RoundTripsAnyText) {
  const Tokenizer& tokenizer = *test::SmallTokenizer::instance();
  for (const char* text : {"", " ", "  two spaces  ", "the fox\n\n\tsees 1847",
                           "漢字 and 😀 and e\u0301", "<s> is text here </s>", "line\r\n"}) {
    const auto ids = tokenizer.encode(text);
    EXPECT_EQ(tokenizer.decode(ids), text);
    for (const auto id : ids) EXPECT_GT(id, 2) << "control piece in encoded text";
  }
  EXPECT_TRUE(tokenizer.encode("").empty());
}

TEST(Tokenizer, ReadsInvalidUtf8AsReplacementCharacter) {
  const Tokenizer& tokenizer = *test::SmallTokenizer::instance();
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("a\xFFz")), "a\xEF\xBF\xBDz");
}

TEST(Tokenizer, KeepsItsFileForExports) {
  const auto& small = test::SmallTokenizer::instance();
  const std::string bytes = read_file(small.path());
  EXPECT_EQ(small->file_bytes(), bytes);
  EXPECT_EQ(small->file_hash(), hash128_hex(std::as_bytes(std::span(bytes.data(), bytes.size()))));
  EXPECT_EQ(small->path(), small.path());
  EXPECT_EQ(load_tokenizer(small.path().parent_path())->file_hash(), small->file_hash());
}

TEST(Tokenizer, Llama2IdsAreThoseOfThePublishedTokenizer) {
  FBI_SHARED_OR_SKIP(model, "data/llama2-tokenizer.model");
  const auto tokenizer = load_tokenizer(model);
  EXPECT_EQ(tokenizer->vocab_size(), 32000);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_EQ(tokenizer->pad_id(), std::nullopt);
  // The example of transformers' own LlamaTokenizer page, without its BOS.
  EXPECT_THAT(tokenizer->encode("Hello this is a test"), ElementsAre(15043, 445, 338, 263, 1243));
  EXPECT_THAT(tokenizer->encode("\n"), ElementsAre(29871, 13));
  EXPECT_EQ(tokenizer->why_no_tokenizer_json(), "");
}

TEST(Tokenizer, ShakespeareWithLlama2) {
  FBI_SHARED_OR_SKIP(model, "data/llama2-tokenizer.model");
  FBI_SHARED_OR_SKIP(corpus, "data/tinyshakespeare.txt");
  const auto tokenizer = load_tokenizer(model);
  const std::string text = read_file(corpus);
  const auto ids = tokenizer->encode(text);
  EXPECT_THAT(std::vector<std::int32_t>(ids.begin(), ids.begin() + 5),
              ElementsAre(3824, 21353, 19642, 29901, 13));
  EXPECT_EQ(tokenizer->decode(ids), text);
  // Count and hash of the ids that the sentencepiece Python package gives for the whole file.
  EXPECT_EQ(ids.size(), 368633u);
  EXPECT_EQ(hash128_hex(std::as_bytes(std::span(ids))), "3645fec0d7b630f798b2d8c88442628b");
}

TEST(Tokenizer, MissingFilesAreNamed) {
  test::TempDir folder;
  expect_error<DataError>([&] { load_tokenizer(folder / "absent.model"); }, "absent.model");
  expect_error<DataError>([&] { load_tokenizer(folder.path()); }, folder.path().string(),
                          "no tokenizer.model and no tokenizer.json");
}

TEST(Tokenizer, FilesThatAreNoModelAreRefused) {
  test::TempDir folder;
  const auto file = folder / "tokenizer.model";
  const std::string good = test::SmallTokenizer::instance()->file_bytes();
  for (const std::string& bytes :
       {std::string(), std::string("this is not a model"), std::string(1000, '\0'),
        good.substr(0, 500), good.substr(0, good.size() - 1),
        std::string("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", 10)}) {
    test::write_text(file, bytes);
    expect_error<DataError>([&] { load_tokenizer(file); }, file.string(),
                            "not a SentencePiece model");
  }
}

TEST(Tokenizer, AnyDamageIsAnErrorOrALoadableModel) {
  // Bytes altered one at a time: never a crash, only DataError or a tokenizer that still encodes.
  test::TempDir folder;
  const auto file = folder / "tokenizer.model";
  const std::string good = test::SmallTokenizer::instance()->file_bytes();
  for (std::size_t at = 0; at < good.size(); at += 37) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x15);
    test::write_text(file, bytes);
    try {
      load_tokenizer(file)->encode("the fox");
    } catch (const DataError&) {
    }
  }
}

}  // namespace
}  // namespace fbi::text
