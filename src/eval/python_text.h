#pragma once

#include <cstdint>
#include <string>
#include <string_view>

/// What Python's str does with text, as the evaluation harness uses it. All texts are UTF-8; a byte
/// that is none counts as a character.
namespace fbi::eval {

std::int64_t count_characters(std::string_view text);
/// Bytes of text without the white space at its end (str.rstrip).
std::size_t length_without_trailing_space(std::string_view text);
std::string_view strip(std::string_view text);
/// str.capitalize: the first character in upper case, the others in lower case. Characters whose
/// case changes their number (ß) keep it.
std::string capitalize(std::string_view text);

}  // namespace fbi::eval
