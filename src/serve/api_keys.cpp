#include "fbi/serve/api_keys.h"

#include <algorithm>
#include <cstdint>
#include <ranges>

#include "fbi/core/error.h"
#include "fbi/core/file.h"

namespace fbi::serve {
namespace {

constexpr std::uint64_t kMaxKeyFileBytes = 1 << 20;
constexpr std::string_view kBlanks = " \t\r";

std::string_view trimmed(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
  return text.substr(0, text.find_last_not_of(kBlanks) + 1);
}

/// What arrives as it was sent: cpp-httplib decodes %41 in the values of headers.
bool is_key(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c > ' ' && c <= '~' && c != '%'; });
}

/// Looks at all of the key, wherever the first difference is.
bool equal(std::string_view key, std::string_view found) {
  if (found.empty()) return false;
  bool differs = key.size() != found.size();
  for (std::size_t k = 0; k < key.size(); ++k) differs |= key[k] != found[k % found.size()];
  return !differs;
}

}  // namespace

ApiKeys::ApiKeys(const std::filesystem::path& file) {
  std::string text;
  try {
    text = read_file(file, kMaxKeyFileBytes);
  } catch (const DataError& error) {
    throw UsageError(concat("--api-key-file: ", error.what()));
  }
  int number = 0;
  for (const auto part : std::views::split(text, '\n')) {
    ++number;
    const std::string_view line = trimmed({part.begin(), part.end()});
    if (line.empty() || line.starts_with('#')) continue;
    if (!is_key(line)) {
      throw UsageError(concat("--api-key-file: ", file.string(), " line ", number,
                              ": expected a key of letters, digits and punctuation in ASCII, "
                              "without blanks and %"));
    }
    keys_.emplace_back(line);
  }
  if (keys_.empty()) {
    throw UsageError(concat("--api-key-file: ", file.string(),
                            " holds no key; write one per line, or leave the option out to serve "
                            "everybody"));
  }
}

bool ApiKeys::admit(std::string_view authorization) const {
  constexpr std::string_view kScheme = "bearer ";
  const bool bearer = std::ranges::equal(
      authorization.substr(0, kScheme.size()), kScheme,
      [](char a, char b) { return (a >= 'A' && a <= 'Z' ? a - 'A' + 'a' : a) == b; });
  if (!bearer) return false;
  const std::string_view found = trimmed(authorization.substr(kScheme.size()));
  bool admitted = false;
  for (const std::string& key : keys_) admitted |= equal(key, found);
  return admitted;
}

}  // namespace fbi::serve
