#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>

namespace fbi::formats {

/// The entries of a zip archive (with or without zip64 records) by name; they lie in `file`,
/// uncompressed. DataError, beginning with `place`, when the archive is broken in any way, an entry
/// is compressed or encrypted, lies outside the file, or has the name of another one. Checksums are
/// not verified: they protect against what a storage medium does, not against who wrote the file.
std::map<std::string, std::span<const std::byte>> read_zip(std::span<const std::byte> file,
                                                           const std::string& place);

}  // namespace fbi::formats
