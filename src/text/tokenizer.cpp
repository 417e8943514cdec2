#include "fbi/text/tokenizer.h"

#include <algorithm>

#include <system_error>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "text/byte_bpe.h"
#include "text/sentence_piece.h"
#include "text/tokenizer_files.h"

namespace fbi::text {

namespace fs = std::filesystem;

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  const auto decoder = start_decoding();
  std::string text;
  for (const std::int32_t id : ids) text += decoder->feed(id);
  return text + decoder->finish();
}

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) {
    throw DataError(concat("no tokenizer at ", path.string(), error ? ": " + error.message() : ""));
  }
  fs::path file = path;
  if (fs::is_directory(path)) {
    file = find_tokenizer(path);
    if (file.empty()) {
      throw DataError(concat("the folder ", path.string(), " has no ", kSentencePieceFile,
                             " and no ", kJsonFile));
    }
  }
  return file.extension() == ".json" ? load_byte_bpe(file) : load_sentencepiece(file);
}

std::string difference_of(const Tokenizer& one, const Tokenizer& other) {
  if (one.file_hash() == other.file_hash()) return {};
  // Control pieces but for these two never stand in data, and have other names in later versions.
  const auto counts = [](const Tokenizer& tokenizer, std::int32_t id) {
    return tokenizer.type(id) != PieceType::kControl || id == tokenizer.bos_id() ||
           id == tokenizer.eos_id();
  };
  const auto shared = static_cast<std::int32_t>(std::min(one.vocab_size(), other.vocab_size()));
  for (std::int32_t id = 0; id < shared; ++id) {
    if (one.piece(id) == other.piece(id) || !(counts(one, id) || counts(other, id))) continue;
    return concat("id ", id, " is \"", one.piece(id), "\" in ", one.path().string(), " and \"",
                  other.piece(id), "\" in ", other.path().string());
  }
  return {};
}

fs::path find_tokenizer(const fs::path& folder) {
  for (const char* name : {kSentencePieceFile, kJsonFile}) {
    if (fs::exists(folder / name)) return folder / name;
  }
  return {};
}

void save_tokenizer(const Tokenizer& tokenizer, const fs::path& folder) {
  if (is_tokenizer_json(tokenizer)) copy_tokenizer(tokenizer.path(), folder);
  const char* name = is_tokenizer_json(tokenizer) ? kJsonFile : kSentencePieceFile;
  write_file(folder / name, tokenizer.file_bytes());  // as it was when it was read
}

void copy_tokenizer(const fs::path& file, const fs::path& folder) {
  const bool json = file.extension() == ".json";
  write_file(folder / (json ? kJsonFile : kSentencePieceFile), read_file(file));
  const fs::path config = file.parent_path() / kConfigFile;
  if (json && fs::exists(config)) write_file(folder / kConfigFile, read_file(config));
}

}  // namespace fbi::text
