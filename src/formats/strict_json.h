#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace fbi::formats {

/// Parses text of unknown origin. DataError, beginning with `place`, on a syntax error, a key that
/// occurs twice in its object (parsers disagree about which one counts), or nesting deeper than
/// kMaxJsonDepth.
nlohmann::json parse_strict_json(std::string_view text, const std::string& place);
inline constexpr int kMaxJsonDepth = 32;

/// A name from a file for use in a message: in quotes, control characters escaped, shortened when
/// very long.
std::string printable(std::string_view name);

}  // namespace fbi::formats
