#include "text/utf8.h"

namespace fbi::text {

namespace {

/// Length by the first byte, and the range of the second, which alone excludes overlong forms,
/// surrogates and values above U+10FFFF.
struct Lead {
  int length;
  unsigned char second_low, second_high;
};

Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Result utf8_front(std::string_view bytes) {
  const Lead lead = lead_of(static_cast<unsigned char>(bytes[0]));
  if (lead.length == 0) return {Utf8Front::kInvalid, 1};
  for (int k = 1; k < lead.length; ++k) {
    if (static_cast<std::size_t>(k) == bytes.size()) return {Utf8Front::kIncomplete, 0};
    const auto byte = static_cast<unsigned char>(bytes[k]);
    const unsigned char low = k == 1 ? lead.second_low : 0x80;
    const unsigned char high = k == 1 ? lead.second_high : 0xBF;
    if (byte < low || byte > high) return {Utf8Front::kInvalid, 1};
  }
  return {Utf8Front::kCharacter, lead.length};
}

bool is_utf8(std::string_view bytes) {
  while (!bytes.empty()) {
    const Utf8Result front = utf8_front(bytes);
    if (front.kind != Utf8Front::kCharacter) return false;
    bytes.remove_prefix(front.length);
  }
  return true;
}

Utf8Character decode_front(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const int length = lead_of(lead).length;
  constexpr unsigned char kLeadBits[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
  char32_t code = lead & kLeadBits[length];
  for (int k = 1; k < length; ++k) code = code << 6 | (static_cast<unsigned char>(text[k]) & 0x3F);
  return {code, length};
}

std::string take_characters(std::string& held, bool all) {
  std::string out;
  std::string_view rest = held;
  while (!rest.empty()) {
    const Utf8Result front = utf8_front(rest);
    if (front.kind == Utf8Front::kIncomplete && !all) break;
    if (front.kind == Utf8Front::kCharacter) {
      out += rest.substr(0, front.length);
      rest.remove_prefix(front.length);
    } else {
      out += kReplacementCharacter;
      rest.remove_prefix(1);
    }
  }
  held.erase(0, held.size() - rest.size());
  return out;
}

}  // namespace fbi::text
