#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

namespace fbi::cli {

inline constexpr int kMostLevels = 64;  ///< of nesting: values are copied and printed recursively

/// The JSON in a text, which may have comments; discarded when it is broken or nested deeper.
inline nlohmann::json parse_shallow(std::string_view text) {
  bool deep = false;
  const auto within_levels = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    deep = deep || depth > kMostLevels;
    return depth <= kMostLevels;
  };
  auto json = nlohmann::json::parse(text, within_levels, /*allow_exceptions=*/false,
                                    /*ignore_comments=*/true);
  return deep ? nlohmann::json(nlohmann::json::value_t::discarded) : json;
}

}  // namespace fbi::cli
