#include "fbi/text/plain_text.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "fbi/core/error.h"
#include "text/utf8.h"

namespace fbi::text {
namespace {

/// How other kinds of files begin, and what makes text of them.
struct OtherFormat {
  std::string_view name, beginning, remedy;
};
constexpr OtherFormat kOtherFormats[] = {
    {"xz", "\xfd\x37zXZ", "unpack it: xz -dk "},
    {"gzip in gzip or zstd", "\x1f\x8b", "unpack it once: gzip -dk or zstd -d "},
    {"zstd in gzip or zstd", "\x28\xb5\x2f\xfd", "unpack it once: gzip -dk or zstd -d "},
    {"bzip2", "BZh91AY&SY", "unpack it: bzip2 -dk "},
    {"zip", "PK\x03\x04", "unpack it: unzip "},
    {"PDF", "%PDF-", "take its text out: pdftotext "},
    // A page's header follows, whose first field has this byte.
    {"Parquet", "PAR1\x15", "write its texts as JSON lines, e.g. by duckdb or pandas: "}};

/// A text may hold a few NUL bytes; UTF-16 and binary files hold many.
bool holds_many_nuls(std::string_view text) {
  return std::ranges::count(text, '\0') * 50 > std::ssize(text);
}

/// Of another encoding than UTF-8 nearly all characters beyond ASCII are broken, and there are
/// many; a text may hold a few broken ones.
bool is_of_other_encoding(std::string_view text) {
  const auto few = std::max<std::int64_t>(3, std::ssize(text) / 1000);
  std::int64_t whole = 0, broken = 0;
  while (!text.empty()) {
    const Utf8Result front = utf8_front(text);
    if (front.kind == Utf8Front::kIncomplete) break;
    if (front.kind == Utf8Front::kInvalid) ++broken;
    if (front.kind == Utf8Front::kCharacter && front.length > 1) ++whole;
    text.remove_prefix(front.length);
  }
  return broken > few && broken > whole;
}

}  // namespace

void check_plain_text(std::string_view beginning, const std::filesystem::path& path) {
  constexpr std::size_t kLooked = 64 << 10;
  for (const OtherFormat& format : kOtherFormats) {
    if (!beginning.starts_with(format.beginning)) continue;
    throw DataError(concat(path.string(), " is a file of ", format.name, ", not text; ",
                           format.remedy, path.string()));
  }
  if (holds_many_nuls(beginning.substr(0, kLooked))) {
    throw DataError(concat(path.string(),
                           " holds many NUL bytes, so it is no text; if it is UTF-16: iconv -f "
                           "UTF-16 -t UTF-8 ",
                           path.string(), " > text.txt"));
  }
  if (is_of_other_encoding(beginning.substr(0, kLooked))) {
    throw DataError(concat(
        path.string(), " is not UTF-8; if it is Latin-1 or of Windows: iconv -f CP1252 -t UTF-8 ",
        path.string(), " > text.txt"));
  }
}

bool begins_with_json_object(std::string_view content) {
  constexpr std::size_t kLongestLine = 1 << 20;
  content = without_byte_order_mark(content);
  const std::size_t begin = content.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos || content[begin] != '{') return false;
  const std::string_view line = content.substr(begin, content.find('\n', begin) - begin);
  return line.size() <= kLongestLine && nlohmann::json::accept(line);
}

std::string_view without_byte_order_mark(std::string_view text) {
  constexpr std::string_view kMark = "\xEF\xBB\xBF";
  if (text.starts_with(kMark)) text.remove_prefix(kMark.size());
  return text;
}

}  // namespace fbi::text
