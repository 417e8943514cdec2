#pragma once

#include <optional>
#include <string>
#include <vector>

#include "fbi/text/tokenizer.h"

namespace fbi::text {

/// How a byte-level tokenizer cuts text into the words inside which pairs are merged. kSmolLm:
/// every character of a number by itself, and what is between them as kGpt2.
enum class WordSplit { kLlama3, kGpt2, kSmolLm };

/// What a byte-level BPE tokenizer has beyond its pieces.
struct ByteLevelRules {
  WordSplit split = WordSplit::kLlama3;
  std::vector<std::string> merges;  ///< "left right" as pieces are spelled, best first
};

/// nullopt for other kinds of tokenizers.
std::optional<ByteLevelRules> byte_level_rules(const Tokenizer& tokenizer);

/// The bytes of a piece that may be parts of characters: of byte-level BPE, and the byte pieces of
/// SentencePiece. nullopt for pieces of text and control pieces. UsageError as Tokenizer::piece.
std::optional<std::string> piece_bytes(const Tokenizer& tokenizer, std::int32_t id);

}  // namespace fbi::text
