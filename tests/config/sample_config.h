#pragma once

#include <string>
#include <vector>

#include "fbi/config/load.h"

namespace fbi::config::test {

/// The least that a legal configuration says.
inline constexpr const char* kMinimal = R"({
  "teacher": {"path": "t"},
  "data": {"paths": ["d"]},
  "train": {"steps": 3000}
})";

inline RunConfig parse(const std::string& text, std::vector<std::string> overrides = {},
                       std::int64_t world_size = 1) {
  return parse_run_config(text, "run.json", ".",
                          {.overrides = std::move(overrides), .world_size = world_size});
}

/// The minimal configuration with overrides.
inline RunConfig minimal(std::vector<std::string> overrides = {}, std::int64_t world_size = 1) {
  return parse(kMinimal, std::move(overrides), world_size);
}

}  // namespace fbi::config::test
