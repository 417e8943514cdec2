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

}  // namespace fbi::text
