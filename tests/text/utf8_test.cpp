#include "text/utf8.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

namespace fbi::text {
namespace {

std::string encode_utf8(std::uint32_t code) {
  if (code < 0x80) return {static_cast<char>(code)};
  std::string out;
  int rest = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  const std::uint32_t lead_marks[] = {0, 0xC0, 0xE0, 0xF0};
  out += static_cast<char>(lead_marks[rest] | (code >> (6 * rest)));
  while (rest-- > 0) out += static_cast<char>(0x80 | ((code >> (6 * rest)) & 0x3F));
  return out;
}

TEST(Utf8, AcceptsExactlyTheScalarValues) {
  for (std::uint32_t code = 0; code < 0x110100; code += code < 0x12000 ? 1 : 61) {
    const bool scalar = code < 0x110000 && (code < 0xD800 || code > 0xDFFF);
    const std::string bytes = encode_utf8(code);
    EXPECT_EQ(is_utf8(bytes), scalar) << code;
    if (!scalar) continue;
    for (std::size_t length = 1; length < bytes.size(); ++length) {
      EXPECT_EQ(utf8_front(bytes.substr(0, length)).kind, Utf8Front::kIncomplete) << code;
    }
    EXPECT_EQ(utf8_front(bytes + "x").length, static_cast<int>(bytes.size())) << code;
  }
}

TEST(Utf8, RefusesOverlongFormsStrayContinuationsAndBadLeads) {
  for (const char* bytes :
       {"\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xF0\x8F\xBF\xBF",
        "\xF5\x80\x80\x80", "\xFF", "\xC3(", "\xE2\x82(", "\xF4\x90\x80\x80"}) {
    const Utf8Result front = utf8_front(bytes);
    EXPECT_EQ(front.kind, Utf8Front::kInvalid) << bytes;
    EXPECT_EQ(front.length, 1);
  }
}

}  // namespace
}  // namespace fbi::text
