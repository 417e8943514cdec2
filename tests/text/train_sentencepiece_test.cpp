#include "fbi/text/train_sentencepiece.h"

#include <gmock/gmock.h>
#include <sys/stat.h>
#include <zstd.h>

#include <algorithm>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "support/expect_error.h"
#include "text/model_file.h"
#include "text/small_tokenizer.h"

namespace fbi::text {
namespace {

using test::expect_error;

class TrainSentencePiece : public ::testing::Test {
 protected:
  SentencePieceTraining options(const std::string& text, std::int64_t vocab_size = 400) {
    test::write_text(folder_ / "in.txt", text);
    return {{folder_ / "in.txt"}, folder_ / "out.model", vocab_size, 0.9995};
  }
  test::TempDir folder_;
};

TEST_F(TrainSentencePiece, SameInputsGiveTheSameBytes) {
  auto first = options(test::small_corpus());
  train_sentencepiece(first);
  const std::string bytes = read_file(first.output);
  EXPECT_EQ(bytes, test::SmallTokenizer::instance()->file_bytes()) << "depends on names of files";
  train_sentencepiece(first);
  EXPECT_EQ(read_file(first.output), bytes);
}

TEST_F(TrainSentencePiece, WritesNothingButTheModelAndSaysNothing) {
  ::testing::internal::CaptureStderr();
  ::testing::internal::CaptureStdout();
  train_sentencepiece(options(test::small_corpus()));
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder_.path()))
    ++files;
  EXPECT_EQ(files, 2u);
}

TEST_F(TrainSentencePiece, IsALlamaTokenizer) {
  const auto model = parse_model_file(test::SmallTokenizer::instance()->file_bytes());
  ASSERT_TRUE(model);
  EXPECT_EQ(model->algorithm, ModelFile::Algorithm::kBpe);
  EXPECT_TRUE(model->byte_fallback);
  EXPECT_TRUE(model->add_dummy_prefix);
  EXPECT_TRUE(model->escape_whitespaces);
  EXPECT_FALSE(model->remove_extra_whitespaces);
  EXPECT_FALSE(model->has_character_map);
  EXPECT_FALSE(model->whitespace_as_suffix);
}

TEST_F(TrainSentencePiece, DigitsStandAlone) {
  const auto& tokenizer = *test::SmallTokenizer::instance();
  for (std::int32_t id = 259; id < 400; ++id) {
    const std::string& piece = tokenizer.piece(id);
    if (piece.find_first_of("0123456789") != std::string::npos) {
      EXPECT_EQ(piece.size(), 1u) << piece;
    }
  }
}

TEST_F(TrainSentencePiece, SeveralInputsCountTogether) {
  const std::string corpus = test::small_corpus();
  const std::size_t cut = corpus.find('\n', corpus.size() / 2) + 1;
  auto two = options(corpus.substr(0, cut));
  // A comma in a name is no separator.
  test::write_text(folder_ / "b, second.txt", corpus.substr(cut));
  two.inputs.push_back(folder_ / "b, second.txt");
  train_sentencepiece(two);
  EXPECT_EQ(read_file(two.output), test::SmallTokenizer::instance()->file_bytes());
}

/// Inputs are read in pieces of 1 MiB, whose borders lie within short lines and long ones.
TEST_F(TrainSentencePiece, PiecesAndPackingChangeNothing) {
  const std::string corpus = test::small_corpus();
  std::string line;
  while (line.size() < 9000) line += corpus;
  std::ranges::replace(line, '\n', ' ');
  std::vector<std::string> parts(3);
  for (std::string& part : parts) {
    while (part.size() < 800'000) part += corpus + line + "\n";
  }
  auto one = options(parts[0] + parts[1] + parts[2]);
  train_sentencepiece(one);
  const std::string model = read_file(one.output);

  auto three = options(parts[0]);
  for (const char* name : {"1.txt", "2.txt"}) {
    test::write_text(folder_ / name, parts[three.inputs.size()]);
    three.inputs.push_back(folder_ / name);
  }
  train_sentencepiece(three);
  EXPECT_EQ(read_file(three.output), model);

  const std::string text = parts[0] + parts[1] + parts[2];
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 1));
  train_sentencepiece(options(packed));
  EXPECT_EQ(read_file(three.output), model);

  std::filesystem::remove(three.output);
  expect_error<DataError>([&] { train_sentencepiece(options(packed.substr(0, 1000))); }, "in.txt",
                          "ends in the middle");
  EXPECT_FALSE(std::filesystem::exists(three.output));
}

TEST_F(TrainSentencePiece, PipesAreRefused) {
  SentencePieceTraining pipe = options("");
  pipe.inputs = {folder_ / "pipe"};
  ASSERT_EQ(mkfifo(pipe.inputs[0].c_str(), 0600), 0);
  expect_error<UsageError>([&] { train_sentencepiece(pipe); }, "pipe is a pipe", "make a file");
}

TEST_F(TrainSentencePiece, LongLinesAreNotLeftOut) {
  std::string line = test::small_corpus();
  for (char& c : line) c = c == '\n' ? ' ' : c;
  const auto one_line = options(line, 350);
  train_sentencepiece(one_line);
  EXPECT_EQ(load_tokenizer(one_line.output)->vocab_size(), 350);
  const auto no_space = options(std::string(9000, 'a') + std::string(9000, 'b') + "abba", 264);
  train_sentencepiece(no_space);
  EXPECT_EQ(load_tokenizer(no_space.output)->vocab_size(), 264);
}

TEST_F(TrainSentencePiece, BadOptionsAreNamed) {
  auto bad = options("text");
  bad.vocab_size = 259;
  expect_error<UsageError>([&] { train_sentencepiece(bad); }, "vocab_size 259");
  bad.vocab_size = std::int64_t{1} << 40;
  expect_error<UsageError>([&] { train_sentencepiece(bad); }, "vocab_size 1099511627776");
  bad = options("text");
  bad.character_coverage = 1.5;
  expect_error<UsageError>([&] { train_sentencepiece(bad); }, "character_coverage 1.5");
  bad.inputs.clear();
  expect_error<UsageError>([&] { train_sentencepiece({}); }, "at least one");
}

TEST_F(TrainSentencePiece, TooLittleTextIsADataError) {
  const auto small = options("only a few words\n", 4000);
  expect_error<DataError>([&] { train_sentencepiece(small); }, "vocab_size 4000", "in.txt",
                          "more text");
  expect_error<DataError>([&] { train_sentencepiece(options("")); }, "in.txt");
  EXPECT_FALSE(std::filesystem::exists(small.output));
}

TEST_F(TrainSentencePiece, MoreCharactersThanPieces) {
  std::string text;
  for (int code = 0; code < 64; ++code) text += {'\xE4', '\xB8', static_cast<char>(0x80 + code)};
  expect_error<DataError>([&] { train_sentencepiece(options(text, 300)); }, "vocab_size 300",
                          "choose a larger vocab_size");
}

TEST_F(TrainSentencePiece, MissingInputIsNamed) {
  auto missing = options("text");
  missing.inputs = {folder_ / "absent.txt"};
  expect_error<DataError>([&] { train_sentencepiece(missing); }, "absent.txt");
}

}  // namespace
}  // namespace fbi::text
