#include "fbi/formats/checksums.h"

#include <algorithm>
#include <system_error>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/hash.h"
#include "formats/file_checksum.h"
#include "formats/strict_json.h"

namespace fbi::formats {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kFiles = "files";

FileChecksum checksum_from_json(const json& entry, const char* list, const std::string& place) {
  if (!entry.is_object()) throw DataError(concat(place, ": field ", list, ": expected objects"));
  FileChecksum result;
  result.file = json_field<std::string>(entry, "file", place);
  result.bytes = json_field<std::uint64_t>(entry, "bytes", place);
  result.xxh3_128 = json_field<std::string>(entry, "xxh3_128", place);
  const fs::path name(result.file);
  if (result.file.empty() || name.filename() != name || name == "." || name == "..") {
    throw DataError(concat(place, ": field ", list, ": expected a plain file name, found ",
                           printable(result.file)));
  }
  return result;
}

bool is_of_the_model(const std::string& file) {
  return file == "config.json" || file.find(".safetensors") != std::string::npos;
}

}  // namespace

json checksums_to_json(const std::vector<FileChecksum>& files) {
  json list = json::array();
  for (const FileChecksum& file : files) {
    list.push_back({{"file", file.file}, {"bytes", file.bytes}, {"xxh3_128", file.xxh3_128}});
  }
  return list;
}

std::vector<FileChecksum> checksums_from_json(const json& root, const char* name,
                                              const std::string& place) {
  if (!root.contains(name) || !root[name].is_array()) {
    throw DataError(concat(place, ": field ", name, ": expected an array"));
  }
  std::vector<FileChecksum> files;
  for (const json& entry : root[name]) files.push_back(checksum_from_json(entry, name, place));
  return files;
}

// Size first: it needs no reading and explains a truncated file better than a hash.
std::string difference(const fs::path& path, const FileChecksum& expected, bool verify_hash) {
  std::error_code error;
  const std::uint64_t bytes = fs::file_size(path, error);
  if (error) return concat(path.string(), ": ", error.message());
  if (bytes != expected.bytes) {
    return concat(path.string(), ": expected ", expected.bytes, " bytes, found ", bytes);
  }
  if (!verify_hash) return {};
  const std::string found = hash128_hex(MappedFile(path).bytes());
  if (found == expected.xxh3_128) return {};
  return concat(path.string(), " has been altered: expected XXH3 ", printable(expected.xxh3_128),
                ", found ", found);
}

void write_checksums(const fs::path& directory) {
  std::vector<FileChecksum> files;
  try {
    for (const auto& entry : fs::directory_iterator(directory)) {
      const MappedFile file(entry.path());
      files.push_back(
          {entry.path().filename().string(), file.bytes().size(), hash128_hex(file.bytes())});
    }
  } catch (const fs::filesystem_error& error) {
    throw DiskError(concat("cannot list ", directory.string(), ": ", error.code().message()));
  }
  std::ranges::sort(files, {}, &FileChecksum::file);
  const json root = {{kFiles, checksums_to_json(files)}};
  write_file(directory / kChecksumsFile, root.dump(2) + "\n");
}

Checksums::Checksums(const fs::path& directory) : directory_(directory) {
  const fs::path file = directory / kChecksumsFile;
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return;
  const json root = parse_strict_json(read_file(file), file.string());
  if (!root.is_object()) throw DataError(concat(file.string(), ": expected an object"));
  files_ = checksums_from_json(root, kFiles, file.string());
}

void Checksums::check(const std::string& file) const {
  for (const FileChecksum& listed : files_) {
    if (listed.file == file) check(listed);
  }
}

void Checksums::check_model() const {
  for (const FileChecksum& listed : files_) {
    if (is_of_the_model(listed.file)) check(listed);
  }
}

void Checksums::check(const FileChecksum& expected) const {
  const std::string found = difference(directory_ / expected.file, expected, /*verify_hash=*/true);
  if (found.empty()) return;
  throw DataError(concat(found, "; export the model again, or, if the change is meant, delete ",
                         (directory_ / kChecksumsFile).string()));
}

}  // namespace fbi::formats
