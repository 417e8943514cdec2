#include "data/documents.h"

#include <gmock/gmock.h>

#include "fbi/core/error.h"
#include "support/expect_error.h"

namespace fbi::data {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// As `prepare` does it, but in pieces of `step` bytes.
std::vector<std::string> cut_in_pieces(std::string_view content, bool json_lines,
                                       const std::string& separator, std::size_t step) {
  DocumentCutter cutter(json_lines, separator);
  std::vector<std::string> documents;
  std::string held;
  for (bool more = true; more;) {
    held += content.substr(0, step);
    content.remove_prefix(std::min(step, content.size()));
    more = !content.empty();
    cutter.feed(held, !more);
    for (RawDocument document; cutter.next(document);) {
      EXPECT_EQ(document.number, std::ssize(documents));
      documents.emplace_back(document.bytes);
    }
    held.erase(0, held.size() - cutter.rest().size());
  }
  return documents;
}

std::vector<std::string> cut(std::string_view content, bool json_lines,
                             const std::string& separator = std::string(kBlankLine)) {
  const auto whole = cut_in_pieces(content, json_lines, separator, content.size() + 1);
  // The first piece holds a byte order mark as a whole.
  for (const std::size_t step : {3, 4, 5, 7, 11}) {
    EXPECT_EQ(cut_in_pieces(content, json_lines, separator, step), whole)
        << step << " bytes at a time of " << content;
  }
  return whole;
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
  EXPECT_THAT(cut("one++++two+++", false, "++"), ElementsAre("one", "two", "+"));
}

TEST(DocumentCutter, JsonLinesAreLines) {
  EXPECT_THAT(cut("{}\n\n[]\n\n\n", true), ElementsAre("{}", "", "[]"));
  EXPECT_THAT(cut("{}\r\n[]", true), ElementsAre("{}\r", "[]"));
  EXPECT_THAT(cut("\n \n", true), IsEmpty());
  EXPECT_THAT(cut("\n\n\n\n{}\n \n\t\n", true), ElementsAre("", "", "", "", "{}"));
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
