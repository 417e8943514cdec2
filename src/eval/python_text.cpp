#include "eval/python_text.h"

#include <clocale>
#include <cwctype>

#include "fbi/core/error.h"

namespace fbi::eval {
namespace {

bool is_continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}

/// Begin of the character that ends at `end` > 0.
std::size_t character_before(std::string_view text, std::size_t end) {
  std::size_t begin = end - 1;
  while (begin > 0 && end - begin < 4 && is_continuation(text[begin])) --begin;
  return begin;
}

std::size_t character_after(std::string_view text, std::size_t begin) {
  std::size_t end = begin + 1;
  while (end < text.size() && end - begin < 4 && is_continuation(text[end])) ++end;
  return end;
}

char32_t code_of(std::string_view character) {
  const auto lead = static_cast<unsigned char>(character[0]);
  if (character.size() == 1) return lead;
  char32_t code = lead & (0xFFu >> (character.size() + 1));
  for (const char byte : character.substr(1))
    code = code << 6 | (static_cast<unsigned char>(byte) & 0x3F);
  return code;
}

void append_utf8(std::string& out, char32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
    return;
  }
  const int rest = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  const unsigned lead = rest == 1 ? 0xC0u : rest == 2 ? 0xE0u : 0xF0u;
  out += static_cast<char>(lead | code >> 6 * rest);
  for (int k = rest - 1; k >= 0; --k) out += static_cast<char>(0x80u | (code >> 6 * k & 0x3F));
}

/// str.isspace.
bool is_space(char32_t code) {
  return (code >= 0x09 && code <= 0x0D) || (code >= 0x1C && code <= 0x20) || code == 0x85 ||
         code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
         code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

/// The rules of Unicode, whatever the user's language.
locale_t unicode_locale() {
  static const locale_t locale = [] {
    const locale_t made = newlocale(LC_CTYPE_MASK, "C.UTF-8", static_cast<locale_t>(nullptr));
    if (!made)
      throw UsageError(
          "the system has no locale C.UTF-8, which upper and lower case need; install it");
    return made;
  }();
  return locale;
}

}  // namespace

std::int64_t count_characters(std::string_view text) {
  std::int64_t count = 0;
  for (std::size_t at = 0; at < text.size(); at = character_after(text, at)) ++count;
  return count;
}

std::size_t length_without_trailing_space(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    const std::size_t begin = character_before(text, end);
    if (!is_space(code_of(text.substr(begin, end - begin)))) break;
    end = begin;
  }
  return end;
}

std::string_view strip(std::string_view text) {
  text = text.substr(0, length_without_trailing_space(text));
  while (!text.empty()) {
    const std::size_t end = character_after(text, 0);
    if (!is_space(code_of(text.substr(0, end)))) break;
    text.remove_prefix(end);
  }
  return text;
}

std::string capitalize(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = character_after(text, at);
    const auto code = static_cast<std::wint_t>(code_of(text.substr(at, end - at)));
    const auto changed =
        at == 0 ? towupper_l(code, unicode_locale()) : towlower_l(code, unicode_locale());
    if (changed == code) {
      out += text.substr(at, end - at);
    } else {
      append_utf8(out, static_cast<char32_t>(changed));
    }
    at = end;
  }
  return out;
}

}  // namespace fbi::eval
