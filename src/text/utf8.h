#pragma once

#include <string>
#include <string_view>

namespace fbi::text {

inline constexpr std::string_view kSpacePiece = "\xE2\x96\x81";  // U+2581, a space in pieces
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

enum class Utf8Front { kCharacter, kIncomplete, kInvalid };

struct Utf8Result {
  Utf8Front kind;
  int length;  ///< bytes of the character; 1 when invalid, 0 when incomplete
};

/// What the non-empty `bytes` begin with: a well-formed character (Unicode 15, table 3-7), the
/// first part of one, or neither.
Utf8Result utf8_front(std::string_view bytes);

bool is_utf8(std::string_view bytes);

struct Utf8Character {
  char32_t code;
  int length;  ///< bytes
};
/// The first character of `text`, which is valid and not empty.
Utf8Character decode_front(std::string_view text);

/// Takes the whole characters off the front of `held`; a byte that can't begin one becomes U+FFFD.
/// With `all`, so do the bytes of an incomplete character.
std::string take_characters(std::string& held, bool all);

}  // namespace fbi::text
