#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace fbi::data {

/// Longer lines are refused before they are parsed.
inline constexpr std::uint64_t kMaxLineBytes = 64u << 20;

/// Where a line stands, for messages.
struct LinePlace {
  const std::filesystem::path& file;
  std::int64_t line;  ///< counted from 0; messages count from 1
};

/// The ids of `{"token_ids": [...]}` or, where allowed, of `[...]`, each in [0, vocab_size). Other
/// keys are ignored. Throws DataError naming file, line and what is wrong.
void parse_token_ids(std::string_view line, const LinePlace& place, std::int64_t vocab_size,
                     bool bare_arrays, std::vector<std::int32_t>& ids);

/// The string under `field`. Throws DataError likewise.
std::string parse_text_field(std::string_view line, const LinePlace& place,
                             const std::string& field);

}  // namespace fbi::data
