#include "fbi/text/tokenizer.h"

#include <system_error>

#include "fbi/core/error.h"
#include "text/sentence_piece.h"

namespace fbi::text {

namespace {

DataError byte_level(const std::filesystem::path& file) {
  return DataError(concat(file.string(),
                          " is a Hugging Face tokenizer.json; this program reads SentencePiece "
                          "models only (expected a tokenizer.model)"));
}

}  // namespace

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  const auto decoder = start_decoding();
  std::string text;
  for (const std::int32_t id : ids) text += decoder->feed(id);
  return text + decoder->finish();
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (!fs::exists(path, error)) {
    throw DataError(concat("no tokenizer at ", path.string(), error ? ": " + error.message() : ""));
  }
  if (!fs::is_directory(path)) {
    if (path.extension() == ".json") throw byte_level(path);
    return load_sentencepiece(path);
  }
  const fs::path file = path / "tokenizer.model";
  if (fs::exists(file)) return load_sentencepiece(file);
  if (fs::exists(path / "tokenizer.json")) throw byte_level(path / "tokenizer.json");
  throw DataError(concat("the folder ", path.string(), " has no tokenizer.model"));
}

}  // namespace fbi::text
