#pragma once

#include <span>
#include <string>
#include <string_view>

namespace fbi {

/// Number of insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`;
/// ASCII case is ignored.
std::size_t edit_distance(std::string_view a, std::string_view b);

/// For "did you mean …": the candidate closest to `word`, the first of equals; empty when none is
/// similar enough (more than a third of the longer one would have to change).
std::string nearest(std::string_view word, std::span<const std::string> candidates);

}  // namespace fbi
