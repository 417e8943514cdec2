#pragma once

#include <cstdint>

namespace fbi::formats {

/// Limits and names of the safetensors format that reader and writer share.
inline constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;
inline constexpr const char* kMetadataKey = "__metadata__";

}  // namespace fbi::formats
