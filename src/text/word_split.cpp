#include "text/word_split.h"

#include <algorithm>
#include <iterator>
#include <string>

#include "text/unicode_classes.h"
#include "text/utf8.h"

namespace fbi::text {
namespace {

constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

using Class = CharacterClass;

/// A place in a text, at the begin of a character or at the end.
class Cursor {
 public:
  Cursor(std::string_view text, std::size_t position) : text_(text), position_(position) { read(); }
  bool at_end() const { return position_ == text_.size(); }
  std::size_t position() const { return position_; }
  char32_t code() const { return code_; }
  bool is(Class wanted) const { return !at_end() && class_ == wanted; }
  bool is_newline() const { return !at_end() && (code_ == '\r' || code_ == '\n'); }
  void advance() {
    position_ += length_;
    read();
  }
  /// Passes the characters of a class, at most `limit`.
  void pass(Class wanted, int limit = -1) {
    while (is(wanted) && limit-- != 0) advance();
  }

 private:
  void read() {
    if (at_end()) return;
    const Utf8Character front = decode_front(text_.substr(position_));
    code_ = front.code;
    length_ = static_cast<std::size_t>(front.length);
    class_ = class_of(code_);
  }

  std::string_view text_;
  std::size_t position_, length_ = 0;
  char32_t code_ = 0;
  Class class_ = Class::kOther;
};

/// Bytes of 's, 't, 're, 've, 'm, 'll or 'd at the begin of `rest`; 0 when there is none.
std::size_t contraction_bytes(std::string_view rest, bool any_case) {
  constexpr std::string_view kLongS = "'\xC5\xBF";  // U+017F is an s when case does not count
  if (any_case && rest.starts_with(kLongS)) return kLongS.size();
  std::string front(rest.substr(0, 3));
  if (any_case) {
    for (char& letter : front) {
      if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
    }
  }
  for (const std::string_view word : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
    if (std::string_view(front).starts_with(word)) return word.size();
  }
  return 0;
}

/// \s+(?!\S)|\s+: a run of spaces without its last character, which goes to the word behind it; to
/// a number it does not where `numbers_apart`.
std::size_t spaces_end(std::string_view text, std::size_t begin, bool numbers_apart = false) {
  Cursor cursor(text, begin);
  std::size_t last = begin;
  while (cursor.is(Class::kSpace)) {
    last = cursor.position();
    cursor.advance();
  }
  const bool whole = cursor.at_end() || (numbers_apart && cursor.is(Class::kNumber));
  return whole || last == begin ? cursor.position() : last;
}

std::size_t llama3_end(std::string_view text, std::size_t begin) {
  if (const std::size_t bytes = contraction_bytes(text.substr(begin), true)) return begin + bytes;
  const Cursor first(text, begin);
  Cursor cursor = first;
  if (!first.is(Class::kLetter) && !first.is(Class::kNumber) && !first.is_newline())
    cursor.advance();
  if (cursor.is(Class::kLetter)) {
    cursor.pass(Class::kLetter);
    return cursor.position();
  }
  cursor = first;
  if (first.is(Class::kNumber)) {
    cursor.pass(Class::kNumber, 3);
    return cursor.position();
  }
  if (first.code() == ' ') cursor.advance();
  if (cursor.is(Class::kOther)) {
    cursor.pass(Class::kOther);
    while (cursor.is_newline()) cursor.advance();
    return cursor.position();
  }
  // \s*[\r\n]+: spaces up to the last line break among them.
  std::size_t after_newline = begin;
  for (cursor = first; cursor.is(Class::kSpace);) {
    const bool newline = cursor.is_newline();
    cursor.advance();
    if (newline) after_newline = cursor.position();
  }
  return after_newline > begin ? after_newline : spaces_end(text, begin);
}

std::size_t gpt2_end(std::string_view text, std::size_t begin, bool numbers_apart) {
  if (const std::size_t bytes = contraction_bytes(text.substr(begin), false)) return begin + bytes;
  Cursor cursor(text, begin);
  if (numbers_apart && cursor.is(Class::kNumber)) {
    cursor.advance();
    return cursor.position();
  }
  if (cursor.code() == ' ') cursor.advance();
  for (const Class wanted : {Class::kLetter, Class::kNumber, Class::kOther}) {
    if (!cursor.is(wanted) || (numbers_apart && wanted == Class::kNumber)) continue;
    cursor.pass(wanted);
    return cursor.position();
  }
  return spaces_end(text, begin, numbers_apart);
}

}  // namespace

std::optional<WordSplit> word_split_of(std::string_view pattern) {
  if (pattern == kLlama3Pattern) return WordSplit::kLlama3;
  if (pattern == kGpt2Pattern) return WordSplit::kGpt2;
  return std::nullopt;
}

std::size_t word_end(WordSplit split, std::string_view text, std::size_t begin) {
  return split == WordSplit::kLlama3 ? llama3_end(text, begin)
                                     : gpt2_end(text, begin, split == WordSplit::kSmolLm);
}

}  // namespace fbi::text
