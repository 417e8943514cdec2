#include "fbi/text/hugging_face.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "support/expect_error.h"
#include "text/small_tokenizer.h"

namespace fbi::text {
namespace {

using Json = nlohmann::json;

Json read_json(const std::filesystem::path& path) {
  return Json::parse(read_file(path));
}

class HuggingFaceTokenizer : public ::testing::Test {
 protected:
  test::TempDir folder_;
  const Tokenizer& tokenizer_ = *test::SmallTokenizer::instance();
};

TEST_F(HuggingFaceTokenizer, WritesTheFolderThatAutoTokenizerReads) {
  EXPECT_EQ(write_hugging_face_tokenizer(tokenizer_, folder_.path(), 256), "");
  EXPECT_EQ(read_file(folder_ / "tokenizer.model"), tokenizer_.file_bytes());
  const Json config = read_json(folder_ / "tokenizer_config.json");
  EXPECT_EQ(config["tokenizer_class"], "PreTrainedTokenizerFast");
  EXPECT_EQ(config["add_bos_token"], true);
  EXPECT_EQ(config["add_eos_token"], false);
  EXPECT_EQ(config["clean_up_tokenization_spaces"], false);
  EXPECT_EQ(config["model_max_length"], 256);
  // No token_type_ids, which generate() of a LLaMA refuses.
  EXPECT_EQ(config["model_input_names"], (Json{"input_ids", "attention_mask"}));
  const Json special = read_json(folder_ / "special_tokens_map.json");
  EXPECT_EQ(special, (Json{{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"unk_token", "<unk>"}}));
  EXPECT_EQ(load_tokenizer(folder_.path())->file_hash(), tokenizer_.file_hash());
}

TEST_F(HuggingFaceTokenizer, TokenizerJsonHoldsVocabularyAndMerges) {
  write_hugging_face_tokenizer(tokenizer_, folder_.path(), 256);
  const Json json = read_json(folder_ / "tokenizer.json");
  const Json& vocabulary = json["model"]["vocab"];
  ASSERT_EQ(vocabulary.size(), 400u);
  for (std::int32_t id = 0; id < 400; ++id) EXPECT_EQ(vocabulary[tokenizer_.piece(id)], id);
  std::string last_joined;
  float last_score = 0;
  for (const std::string merge : json["model"]["merges"]) {
    const auto space = merge.find(' ');
    const std::string joined = merge.substr(0, space) + merge.substr(space + 1);
    ASSERT_TRUE(vocabulary.contains(joined)) << merge;
    const float score = tokenizer_.score(vocabulary[joined]);
    EXPECT_LE(score, last_score) << "merges must come best first: " << merge << " after "
                                 << last_joined;
    last_score = score;
    last_joined = joined;
  }
  EXPECT_EQ(json["added_tokens"].size(), 3u);
  EXPECT_EQ(json["post_processor"]["single"][0]["SpecialToken"]["id"], "<s>");
}

TEST_F(HuggingFaceTokenizer, ModelsThatItCannotExpressSayWhy) {
  // Field 3 of the normaliser settings (add_dummy_prefix) switched off by an appended message:
  // protobuf merges them.
  const auto file = folder_ / "no-prefix.model";
  test::write_text(file, tokenizer_.file_bytes() + std::string("\x1A\x02\x18\x00", 4));
  const auto no_prefix = load_tokenizer(file);
  EXPECT_FALSE(no_prefix->adds_space_prefix());
  EXPECT_EQ(no_prefix->decode(no_prefix->encode("the fox")), "the fox");
  const auto out = folder_ / "out";
  std::filesystem::create_directory(out);
  EXPECT_THAT(write_hugging_face_tokenizer(*no_prefix, out, 64), ::testing::HasSubstr("spaces"));
  EXPECT_FALSE(std::filesystem::exists(out / "tokenizer.json"));
  EXPECT_EQ(read_json(out / "tokenizer_config.json")["tokenizer_class"], "LlamaTokenizer");
}

TEST_F(HuggingFaceTokenizer, AFolderThatIsNotThereIsADiskError) {
  test::expect_error<DiskError>(
      [&] { write_hugging_face_tokenizer(tokenizer_, folder_ / "absent", 64); }, "absent");
}

}  // namespace
}  // namespace fbi::text
