#include "formats/strict_json.h"

#include <set>
#include <vector>

#include "fbi/core/error.h"

namespace fbi::formats {

using nlohmann::json;

json parse_strict_json(std::string_view text, const std::string& place) {
  std::vector<std::set<std::string>> keys;  // of each object that is open
  int depth = 0;
  const auto check = [&](int, json::parse_event_t event, json& value) {
    switch (event) {
      case json::parse_event_t::object_start:
        keys.emplace_back();
        [[fallthrough]];
      case json::parse_event_t::array_start:
        if (++depth > kMaxJsonDepth) {
          throw DataError(concat(place, ": JSON nested deeper than ", kMaxJsonDepth, " levels"));
        }
        break;
      case json::parse_event_t::object_end:
        keys.pop_back();
        [[fallthrough]];
      case json::parse_event_t::array_end:
        --depth;
        break;
      case json::parse_event_t::key:
        if (const auto& key = value.get_ref<const std::string&>();
            !keys.back().insert(key).second) {
          throw DataError(concat(place, ": key ", printable(key), " occurs twice"));
        }
        break;
      case json::parse_event_t::value:
        break;
    }
    return true;
  };
  try {
    return json::parse(text, check);
  } catch (const json::exception& error) {
    throw DataError(concat(place, ": not valid JSON: ", error.what()));
  }
}

std::string printable(std::string_view name) {
  constexpr std::size_t kLongest = 200;
  const bool cut = name.size() > kLongest;
  const json text = std::string(name.substr(0, kLongest));
  // Invalid UTF-8 is replaced instead of thrown at.
  return text.dump(-1, ' ', false, json::error_handler_t::replace) + (cut ? "…" : "");
}

}  // namespace fbi::formats
