#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fbi/core/file.h"

namespace fbi::text {

/// Makes plain bytes of packed ones, in pieces.
class Unpacker;

/// The content of a text file, or pipe, in order. What is packed by gzip or zstd, which its first
/// bytes tell, is unpacked on the way: concatenated members and frames, any window. Throws
/// DataError naming the file when it can't be read, is broken, or ends in the middle.
class TextFile {
 public:
  explicit TextFile(const std::filesystem::path& path);
  ~TextFile();
  /// Appends the next `bytes` to `text`; fewer only at the end. Returns whether there may be more.
  bool append(std::string& text, std::size_t bytes);
  /// How much of the file has been read, packed as it is, and how much there is (0 of a pipe).
  std::uint64_t position() const { return position_; }
  std::uint64_t size() const { return size_; }

 private:
  void refill();

  InputFile file_;
  std::uint64_t position_ = 0, size_ = 0;
  std::vector<char> buffer_;
  std::string_view packed_;  ///< what is left of buffer_
  std::unique_ptr<Unpacker> unpacker_;
};

/// All of a text file, unpacked. DataError when it is larger than max_bytes.
std::string read_text_file(const std::filesystem::path& path, std::uint64_t max_bytes = 256u << 20);

/// What is looked at to find out what a file is.
inline constexpr std::size_t kBeginningBytes = 1 << 20;
/// Its first kBeginningBytes, unpacked. UsageError for a pipe, of which these would be missing when
/// the whole is read.
std::string beginning_of_text_file(const std::filesystem::path& path);

/// Its name without the .gz or .zst of a packed one.
std::filesystem::path unpacked_name(const std::filesystem::path& path);

}  // namespace fbi::text
