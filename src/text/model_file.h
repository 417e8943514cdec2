#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fbi/text/tokenizer.h"

namespace fbi::text {

/// What we need of a SentencePiece model file beyond the library's own interface, which keeps these
/// fields behind protobuf headers (never to be included next to LibTorch's).
struct ModelFile {
  struct Piece {
    std::string text;
    float score = 0;
    PieceType type = PieceType::kNormal;
  };
  enum class Algorithm { kUnigram = 1, kBpe = 2, kWord = 3, kChar = 4 };

  std::vector<Piece> pieces;
  Algorithm algorithm = Algorithm::kUnigram;
  bool byte_fallback = false;
  bool whitespace_as_suffix = false;
  std::string unk_surface = " \xE2\x81\x87 ";  // U+2047
  bool has_character_map = false;              // normalisation other than identity
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

/// Nothing when `bytes` are not a well-formed model with at least one piece.
std::optional<ModelFile> parse_model_file(std::string_view bytes);

}  // namespace fbi::text
