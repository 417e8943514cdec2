#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace fbi::formats {

/// A file of a folder as it was written.
struct FileChecksum {
  std::string file;  ///< a plain name
  std::uint64_t bytes = 0;
  std::string xxh3_128;
};

inline constexpr const char* kChecksumsFile = "checksums.json";

/// Writes `checksums.json` for the files that a folder holds now.
void write_checksums(const std::filesystem::path& directory);

/// What `checksums.json` of a folder says; nothing where there is none.
class Checksums {
 public:
  /// Throws DataError naming file and field.
  explicit Checksums(const std::filesystem::path& directory);
  /// Reads the whole file. DataError when it is listed and is not what was written.
  void check(const std::string& file) const;
  /// The same for config.json and everything that is listed of the tensors' files.
  void check_model() const;

 private:
  void check(const FileChecksum& expected) const;

  std::filesystem::path directory_;
  std::vector<FileChecksum> files_;
};

}  // namespace fbi::formats
