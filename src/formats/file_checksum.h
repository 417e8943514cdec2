#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fbi/formats/checksums.h"

namespace fbi::formats {

/// [{"bytes": …, "file": …, "xxh3_128": …}, …]
nlohmann::json checksums_to_json(const std::vector<FileChecksum>& files);
/// Field `name` of the object `root`. DataError, beginning with `place`.
std::vector<FileChecksum> checksums_from_json(const nlohmann::json& root, const char* name,
                                              const std::string& place);

/// How a file differs from what was written, "" when it does not. Without `verify_hash` only its
/// size counts.
std::string difference(const std::filesystem::path& path, const FileChecksum& expected,
                       bool verify_hash);

}  // namespace fbi::formats
