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

}  // namespace fbi::text
