#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/text/hugging_face.h"
#include "fbi/text/tokenizer.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/write_text.h"

namespace fbi::text {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using test::expect_error;
using Ids = std::vector<std::int32_t>;

/// tokenizer.json, its configuration and cases made with Hugging Face's library (byte_bpe/make.py).
fs::path sample(const char* kind) {
  return fs::path(__FILE__).parent_path() / "byte_bpe" / kind;
}

class Kinds : public testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Tokenizer> tokenizer_ = load_tokenizer(sample(GetParam()));
};
INSTANTIATE_TEST_SUITE_P(ByteBpe, Kinds, testing::Values("llama3", "gpt2", "smollm"));

TEST_P(Kinds, GiveTheIdsOfTheLibrary) {
  const Json cases = Json::parse(read_file(sample(GetParam()) / "cases.json"));
  EXPECT_EQ(cases.size(), 200u);
  for (const Json& one : cases) {
    const auto text = one[0].get<std::string>();
    const Ids ids = tokenizer_->encode(text);
    EXPECT_EQ(ids, one[1].get<Ids>()) << one[0].dump();
    EXPECT_EQ(tokenizer_->decode(ids), text) << one[0].dump();
  }
}

TEST_P(Kinds, KnowTheirSpecialPieces) {
  EXPECT_EQ(tokenizer_->path(), sample(GetParam()) / "tokenizer.json");
  EXPECT_EQ(tokenizer_->piece(tokenizer_->bos_id()), "<|begin_of_text|>");
  EXPECT_EQ(tokenizer_->piece(tokenizer_->eos_id()), "<|end_of_text|>");
  EXPECT_EQ(tokenizer_->type(tokenizer_->bos_id()), PieceType::kControl);
  EXPECT_EQ(tokenizer_->type(0), PieceType::kNormal);
  EXPECT_FALSE(tokenizer_->unk_id() || tokenizer_->pad_id());
  EXPECT_EQ(tokenizer_->vocab_size(), tokenizer_->eos_id() + 2);
  // Text that spells a control piece is text.
  const Ids ids = tokenizer_->encode("<|begin_of_text|>");
  EXPECT_GT(ids.size(), 1u);
  EXPECT_EQ(tokenizer_->decode(ids), "<|begin_of_text|>");
  EXPECT_EQ(tokenizer_->decode(Ids{tokenizer_->bos_id()}), "");
  expect_error<UsageError>([&] { tokenizer_->type(100'000); }, "100000", "outside the vocabulary");
  expect_error<UsageError>([&] { tokenizer_->decode(Ids{-1}); }, "-1");
}

TEST_P(Kinds, InvalidUtf8IsReadAsReplacementCharacters) {
  EXPECT_EQ(tokenizer_->encode("a\xff\xc3 b"), tokenizer_->encode("a\uFFFD\uFFFD b"));
}

TEST_P(Kinds, StreamsWholeCharacters) {
  const Ids ids = tokenizer_->encode("東x🦊");
  const auto decoder = tokenizer_->start_decoding();
  std::string text;
  for (const std::int32_t id : ids) {
    const std::string part = decoder->feed(id);
    EXPECT_TRUE(part.empty() || (static_cast<unsigned char>(part[0]) & 0xC0) != 0x80);
    text += part;
  }
  EXPECT_EQ(text + decoder->finish(), "東x🦊");
  EXPECT_EQ(tokenizer_->decode(Ids(ids.begin(), ids.end() - 1)).substr(0, 4), "東x");
}

TEST_P(Kinds, LongWordsTakeNoLongerThanTheirLength) {
  const std::string word(300'000, 'a');
  EXPECT_EQ(tokenizer_->decode(tokenizer_->encode(word)), word);
}

TEST_P(Kinds, AreCopiedAsTheyAre) {
  test::TempDir folder;
  EXPECT_EQ(write_hugging_face_tokenizer(*tokenizer_, folder.path(), 128), "");
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    EXPECT_EQ(read_file(folder / name), read_file(sample(GetParam()) / name));
  }
  EXPECT_EQ(find_tokenizer(folder.path()), folder / "tokenizer.json");
  EXPECT_EQ(load_tokenizer(folder.path())->file_hash(), tokenizer_->file_hash());
  EXPECT_TRUE(find_tokenizer(folder / "absent").empty());
}

/// As SmolLM's, which lacks some; the library leaves them out, too.
TEST(ByteBpe, BytesWithoutAPieceAreLeftOut) {
  test::TempDir folder;
  Json root = Json::parse(read_file(sample("gpt2") / "tokenizer.json"));
  Json& vocab = root["model"]["vocab"];
  vocab["ćć"] = vocab.at("ć");  // of the byte 7
  vocab.erase("ć");
  test::write_text(folder / "tokenizer.json", root.dump());
  fs::copy(sample("gpt2") / "tokenizer_config.json", folder.path());
  const auto lossy = load_tokenizer(folder.path()), whole = load_tokenizer(sample("gpt2"));
  EXPECT_EQ(lossy->encode("a\x07\x07"
                          "b"),
            whole->encode("ab"));
  EXPECT_EQ(lossy->encode("the fox\x07"), whole->encode("the fox"));
  EXPECT_TRUE(lossy->encode("\x07").empty());
}

/// The same rule in other words: what it matches is all of a text.
TEST(ByteBpe, AnInvertedSplitThatRemovesTheRestIsTheSame) {
  test::TempDir folder;
  Json root = Json::parse(read_file(sample("llama3") / "tokenizer.json"));
  root["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed";
  root["pre_tokenizer"]["pretokenizers"][0]["invert"] = true;
  test::write_text(folder / "tokenizer.json", root.dump());
  fs::copy(sample("llama3") / "tokenizer_config.json", folder.path());
  const std::string text = "it's 1234 things; (and) then...\n\n  \tran";
  EXPECT_EQ(load_tokenizer(folder.path())->encode(text),
            load_tokenizer(sample("llama3"))->encode(text));
}

class BrokenFiles : public testing::Test {
 protected:
  Json root_ = Json::parse(read_file(sample("llama3") / "tokenizer.json"));
  Json config_ = {{"bos_token", "<|begin_of_text|>"}, {"eos_token", "<|end_of_text|>"}};

  void write(const std::string& text) {
    test::write_text(folder_ / "tokenizer.json", text);
    test::write_text(folder_ / "tokenizer_config.json", config_.dump());
  }
  /// With one part of the file replaced.
  template <class Error = DataError, class... Parts>
  void refused(const char* pointer, const Json& value, const Parts&... parts) {
    Json changed = root_;
    changed[Json::json_pointer(pointer)] = value;
    write(changed.dump());
    expect_error<Error>([&] { load_tokenizer(folder_.path()); },
                        (folder_ / "tokenizer.json").string(), parts...);
  }
  test::TempDir folder_;
};

TEST_F(BrokenFiles, KindsThatAreNotImplemented) {
  refused<OtherTokenizer>("/normalizer", {{"type", "NFC"}}, "normalizer", "NFC",
                          "is not implemented");
  refused<OtherTokenizer>("/model/type", "Unigram", "model \"Unigram\"");
  refused<OtherTokenizer>("/model/byte_fallback", true, "byte_fallback true");
  refused<OtherTokenizer>("/model/unk_token", "<unk>", "unk_token \"<unk>\"");
  refused<OtherTokenizer>("/model/dropout", 0.1, "dropout 0.1");
  refused<OtherTokenizer>("/model/end_of_word_suffix", "</w>", "end_of_word_suffix");
  refused<OtherTokenizer>("/pre_tokenizer", {{"type", "Metaspace"}}, "pre_tokenizer", "Metaspace");
  refused<OtherTokenizer>("/pre_tokenizer/pretokenizers/0/pattern/Regex", "\\w+",
                          "pre_tokenizer \"\\\\w+\"");
  refused<OtherTokenizer>("/pre_tokenizer/pretokenizers/0/behavior", "Removed", "pre_tokenizer");
  refused<OtherTokenizer>("/pre_tokenizer/pretokenizers/0/invert", true, "pre_tokenizer");
  const Json digits = {{"type", "Digits"}, {"individual_digits", false}};
  refused<OtherTokenizer>("/pre_tokenizer/pretokenizers/0", digits, "pre_tokenizer");
  refused<OtherTokenizer>("/pre_tokenizer/pretokenizers/1/add_prefix_space", true, "pre_tokenizer");
  refused<OtherTokenizer>("/decoder", {{"type", "Fuse"}}, "decoder", "Fuse");
  refused<OtherTokenizer>("/added_tokens/0/special", false, "added token that is not special");
}

TEST_F(BrokenFiles, BrokenOnes) {
  refused("/decoder", nullptr, "not a sound tokenizer.json");
  refused("/model/vocab/zz", -1, "id of \"zz\"", "expected a whole number");
  refused("/model/vocab/zz", 5000, "no piece has the id");
  refused("/model/vocab/日", 423, "is not spelled in the byte-level alphabet");
  refused("/model/merges/0", "a b c", "expected two pieces");
  refused("/model/merges/0", {"qq", "zz"}, "is not in the vocabulary");
  refused("/model/merges/0", 5, "not a sound tokenizer.json");
  refused("/model/merges", "x", "merges: expected a list");
  refused("/added_tokens/0/content", 5, "not a sound tokenizer.json");
  Json without_byte = root_;
  without_byte["model"]["vocab"]["日"] = without_byte["model"]["vocab"]["Ā"];
  without_byte["model"]["vocab"].erase("Ā");
  root_ = without_byte;
  refused("/normalizer", nullptr, "byte-level alphabet");
  for (const char* text : {"", "[]", "{}", "{\"model\": 5}", "nul"}) {
    write(text);
    EXPECT_THROW(load_tokenizer(folder_.path()), DataError) << text;
  }
}

TEST_F(BrokenFiles, DeepOnes) {
  const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  write("{\"normalizer\": " + deep + "}");
  expect_error<DataError>([&] { load_tokenizer(folder_.path()); },
                          (folder_ / "tokenizer.json").string(), "more than 32 levels of nesting");
  write(root_.dump());
  test::write_text(folder_ / "tokenizer_config.json", "{\"bos_token\": " + deep + "}");
  expect_error<DataError>([&] { load_tokenizer(folder_.path()); },
                          (folder_ / "tokenizer_config.json").string(), "32 levels");
}

TEST_F(BrokenFiles, SpecialPiecesMustBeNamed) {
  config_.erase("eos_token");
  refused("/normalizer", nullptr, "expected eos_token in tokenizer_config.json");
  config_["eos_token"] = "<|nothing|>";
  refused("/normalizer", nullptr, "eos_token \"<|nothing|>\"", "not in the vocabulary");
}

}  // namespace
}  // namespace fbi::text
