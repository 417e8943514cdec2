#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

/// JSON as configurations need it: comments, no key twice, errors with line and column, no deep
/// nesting.
namespace fbi::config {

using Json = nlohmann::json;

struct SyntaxError {
  std::size_t line = 0;    ///< counted from 1; 0: unknown
  std::size_t column = 0;  ///< in bytes, counted from 1
  std::string message;
};

struct ParsedJson {
  Json root;
  std::vector<std::string> duplicate_keys;  ///< dotted paths; the first value was kept
};

enum class Comments { kAllowed, kRefused };

std::variant<ParsedJson, SyntaxError> parse_json(std::string_view text, Comments comments);

/// A value for a message, cut where it gets long.
std::string show(const Json& value);

/// Copies `source` into `target`; objects are merged key by key, anything else replaces.
void merge_into(Json& target, const Json& source);

}  // namespace fbi::config
