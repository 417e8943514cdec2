#pragma once

#include <optional>
#include <string>
#include <vector>

#include "fbi/text/tokenizer.h"

namespace fbi::text {

/// What a byte-level BPE tokenizer has beyond its pieces.
struct ByteLevelRules {
  bool is_llama3 = false;           ///< cuts text into words as Llama-3 does, else as GPT-2
  std::vector<std::string> merges;  ///< "left right" as pieces are spelled, best first
};

/// nullopt for other kinds of tokenizers.
std::optional<ByteLevelRules> byte_level_rules(const Tokenizer& tokenizer);

/// The bytes of a piece that may be parts of characters: of byte-level BPE, and the byte pieces of
/// SentencePiece. nullopt for pieces of text and control pieces. UsageError as Tokenizer::piece.
std::optional<std::string> piece_bytes(const Tokenizer& tokenizer, std::int32_t id);

}  // namespace fbi::text
