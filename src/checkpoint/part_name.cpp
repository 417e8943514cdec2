#include "checkpoint/part_name.h"

#include <charconv>

#include "fbi/core/error.h"

namespace fbi::checkpoint {

std::string to_string(const PartName& part) {
  return concat(part.name, "@", part.begin, ":", part.end, "/", part.total);
}

std::optional<PartName> parse_part_name(const std::string& text) {
  const auto at = text.rfind('@');
  if (at == std::string::npos) return std::nullopt;
  PartName part{text.substr(0, at)};
  const char* next = text.data() + at + 1;
  const char* const end = text.data() + text.size();
  const auto number = [&](std::int64_t& value, char stop) {
    const auto [after, error] = std::from_chars(next, end, value);
    const bool last = stop == '\0';
    if (error != std::errc{} || value < 0 ||
        (last ? after != end : after == end || *after != stop)) {
      return false;
    }
    next = after + !last;
    return true;
  };
  if (!number(part.begin, ':') || !number(part.end, '/') || !number(part.total, '\0')) {
    return std::nullopt;
  }
  return part;
}

}  // namespace fbi::checkpoint
