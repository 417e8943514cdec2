#pragma once

#include <cstdint>

namespace fbi::fuzz {

/// How many inputs a target has not refused: driver.cpp looks at it, libFuzzer does not.
inline std::uint64_t accepted = 0;

}  // namespace fbi::fuzz
