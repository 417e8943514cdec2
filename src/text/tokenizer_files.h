#pragma once

#include "fbi/text/tokenizer.h"

namespace fbi::text {

inline constexpr const char* kSentencePieceFile = "tokenizer.model";
inline constexpr const char* kJsonFile = "tokenizer.json";
inline constexpr const char* kConfigFile = "tokenizer_config.json";

/// Whether it was read from a tokenizer.json, not from a SentencePiece model.
inline bool is_tokenizer_json(const Tokenizer& tokenizer) {
  return tokenizer.path().extension() == ".json";
}

}  // namespace fbi::text
