#pragma once

namespace fbi::text {

enum class CharacterClass { kLetter, kNumber, kSpace, kOther };

/// \p{L}, \p{N} and \s of the regular expressions in tokenizer.json; no character is in two of
/// them.
CharacterClass class_of(char32_t code);

}  // namespace fbi::text
