#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

#include "fbi/text/byte_level.h"

namespace fbi::text {

/// The rule that a regular expression of tokenizer.json is, if it is one of those known.
std::optional<WordSplit> word_split_of(std::string_view pattern);

/// End of the word that begins at `begin` < text.size(). `text` is valid UTF-8; every character is
/// in one word.
std::size_t word_end(WordSplit split, std::string_view text, std::size_t begin);

}  // namespace fbi::text
