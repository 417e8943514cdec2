#pragma once

#include <string_view>

namespace fbi::text {

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

}  // namespace fbi::text
