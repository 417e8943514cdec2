#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "fbi/text/tokenizer.h"
#include "text/word_split.h"

namespace fbi::text {

/// What a tokenizer.json of the byte-level BPE kind says. In it a piece is spelled with one
/// character per byte, e.g. "Ġthe" for " the".
struct ByteBpeFile {
  struct Piece {
    std::string spelling;
    std::string bytes;  ///< what it stands for; of a control piece its spelling
    PieceType type = PieceType::kNormal;
  };
  struct Merge {
    std::int32_t rank = 0;  ///< lower ones come first
    std::int32_t id = 0;    ///< of the two pieces joined
  };

  std::vector<Piece> pieces;                                  ///< by id
  std::unordered_map<std::string, std::int32_t> id_of_bytes;  ///< of normal pieces
  std::unordered_map<std::uint64_t, Merge> merges;            ///< by merge_key
  WordSplit split = WordSplit::kLlama3;
  bool whole_words_first = false;  ///< a word that is a piece is taken as it is, without merging
  std::int32_t bos_id = 0, eos_id = 0;
  std::optional<std::int32_t> pad_id;
};

inline std::uint64_t merge_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

/// `json` is the content of `path`; BOS, EOS and padding are named by tokenizer_config.json beside
/// it. DataError naming the file and what it has that is not implemented (another kind of model,
/// normaliser, pre-tokenizer, …) or is broken.
ByteBpeFile read_byte_bpe_file(const std::filesystem::path& path, const std::string& json);

}  // namespace fbi::text
