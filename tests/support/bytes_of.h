#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace fbi::test {

/// A view of the bytes of `text`, which must live as long.
inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace fbi::test
