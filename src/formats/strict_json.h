#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <type_traits>

#include "fbi/core/error.h"

namespace fbi::formats {

/// Parses text of unknown origin. DataError, beginning with `place`, on a syntax error, a key that
/// occurs twice in its object (parsers disagree about which one counts), or nesting deeper than
/// kMaxJsonDepth.
nlohmann::json parse_strict_json(std::string_view text, const std::string& place);
inline constexpr int kMaxJsonDepth = 32;

/// A name from a file for use in a message: in quotes, control characters escaped, shortened when
/// very long.
std::string printable(std::string_view name);

/// One field of an object, a text or a whole number from 0 on; DataError, beginning with `place`.
template <class T>
T json_field(const nlohmann::json& object, const char* name, const std::string& place) {
  const auto found = object.find(name);
  if (found == object.end()) throw DataError(concat(place, ": field ", name, " is missing"));
  if constexpr (std::is_same_v<T, std::string>) {
    if (!found->is_string()) {
      throw DataError(concat(place, ": field ", name, ": expected a string"));
    }
  } else {
    constexpr auto kLargest = static_cast<std::uint64_t>(std::numeric_limits<T>::max());
    if (!found->is_number_unsigned() || found->get<std::uint64_t>() > kLargest) {
      throw DataError(concat(place, ": field ", name, ": expected a whole number from 0 to ",
                             kLargest, ", found ", printable(found->dump())));
    }
  }
  return found->get<T>();
}

}  // namespace fbi::formats
