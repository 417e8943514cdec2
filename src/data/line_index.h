#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "fbi/core/file.h"
#include "fbi/data/prepare.h"

namespace fbi::data {

/// Where the lines of a file begin. Empty lines at its end do not count.
class LineIndex {
 public:
  /// Scans the data.
  static LineIndex build(const MappedFile& data, const Progress& progress);
  /// From the index file of an earlier build, else by building, which writes that file. A file that
  /// belongs to other data or is damaged is replaced; one that can't be written is reported to the
  /// log.
  static LineIndex load_or_build(const MappedFile& data, const std::filesystem::path& index_file,
                                 const Progress& progress);

  std::int64_t line_count() const { return static_cast<std::int64_t>(offsets().size()) - 1; }
  /// With its line break.
  std::string_view line(const MappedFile& data, std::int64_t line) const;

 private:
  static std::optional<LineIndex> load(const MappedFile& data,
                                       const std::filesystem::path& index_file);
  void store(const MappedFile& data, const std::filesystem::path& index_file) const;
  std::span<const std::uint64_t> offsets() const;

  // Either built, or mapped from the index file. The last offset is the end of the last line.
  std::vector<std::uint64_t> built_;
  std::optional<MappedFile> mapped_;
};

/// Says in the log how far work has come, every `interval`.
Progress log_progress(std::chrono::milliseconds interval);

/// `NAME.lines` beside the data, or in `index_dir`, where a hash of the data's path tells files of
/// one name apart.
std::filesystem::path line_index_path(const std::filesystem::path& data,
                                      const std::filesystem::path& index_dir);

}  // namespace fbi::data
