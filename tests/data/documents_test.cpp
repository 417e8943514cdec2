#include "data/documents.h"

#include <gmock/gmock.h>

#include "fbi/core/error.h"
#include "support/expect_error.h"

namespace fbi::data {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<std::string> cut(std::string_view content, bool json_lines,
                             const std::string& separator = std::string(kBlankLine)) {
  DocumentCutter cutter(content, json_lines, separator);
  std::vector<std::string> documents;
  for (RawDocument document; cutter.next(document);) documents.emplace_back(document.bytes);
  return documents;
}

TEST(DocumentCutter, BlankLinesSeparateText) {
  EXPECT_THAT(cut("one\nline\n\ntwo\n", false), ElementsAre("one\nline", "two"));
  EXPECT_THAT(cut("one\r\nline\r\n\r\ntwo\r\n", false), ElementsAre("one\r\nline", "two"));
  EXPECT_THAT(cut("one\n \t \ntwo", false), ElementsAre("one", "two"));
  EXPECT_THAT(cut("\n\n\none\n\n\n\ntwo\n\n", false), ElementsAre("one", "two"));
  EXPECT_THAT(cut("  indented\n\n  also", false), ElementsAre("  indented", "  also"));
  EXPECT_THAT(cut("one", false), ElementsAre("one"));
  // Lines of spaces count as empty wherever they stand, several at a time, too.
  EXPECT_THAT(cut(" \n one\n \n \n\n  \n two \n\t", false), ElementsAre(" one", " two "));
  EXPECT_THAT(cut(" \n\n \r\n  ", false), IsEmpty());
  EXPECT_THAT(cut("", false), IsEmpty());
  EXPECT_THAT(cut("\n\n\n", false), IsEmpty());
}

TEST(DocumentCutter, AnySeparatorIsTakenLiterally) {
  EXPECT_THAT(cut("one\n\nstill<|end|>\ntwo<|end|>", false, "<|end|>"),
              ElementsAre("one\n\nstill", "two"));
  EXPECT_THAT(cut("one\ntwo\n", false, "\n"), ElementsAre("one", "two"));
  EXPECT_THAT(cut("one two", false, "<|end|>"), ElementsAre("one two"));
}

TEST(DocumentCutter, JsonLinesAreLines) {
  EXPECT_THAT(cut("{}\n\n[]\n\n\n", true), ElementsAre("{}", "", "[]"));
  EXPECT_THAT(cut("{}\r\n[]", true), ElementsAre("{}\r", "[]"));
  EXPECT_THAT(cut("\n \n", true), IsEmpty());
}

TEST(DocumentCutter, AByteOrderMarkIsNoText) {
  EXPECT_THAT(cut("\xEF\xBB\xBFone", false), ElementsAre("one"));
}

TEST(Separator, EscapesAreReplaced) {
  EXPECT_EQ(unescape_separator("\\n\\n"), "\n\n");
  EXPECT_EQ(unescape_separator("a\\tb\\r\\\\"), "a\tb\r\\");
  EXPECT_EQ(unescape_separator("<|end|>"), "<|end|>");
  test::expect_error<UsageError>([] { unescape_separator("\\x"); }, "\\x");
  test::expect_error<UsageError>([] { unescape_separator("end\\"); }, "end\\");
}

}  // namespace
}  // namespace fbi::data
