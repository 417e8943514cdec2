#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace fbi::checkpoint {

/// Rows [begin, end) of the `total` rows of tensor `name`; see commit.h for the convention.
struct PartName {
  std::string name;
  std::int64_t begin = 0, end = 0, total = 0;
};

std::string to_string(const PartName& part);
/// nullopt for the plain name of a whole tensor.
std::optional<PartName> parse_part_name(const std::string& text);

}  // namespace fbi::checkpoint
