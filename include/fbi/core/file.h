#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace fbi {

/// A file that is read in order. Throws DataError naming the path and the system's reason.
class InputFile {
 public:
  explicit InputFile(const std::filesystem::path& path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  const std::filesystem::path& path() const { return path_; }
  int descriptor() const { return descriptor_; }
  bool is_pipe() const;
  /// DataError if this is neither a regular file nor a pipe; 0 of a pipe.
  std::uint64_t size() const;
  /// Fills `bytes` as far as there are any, and returns how many; fewer only at the end. Of a pipe
  /// it waits for what has not been written yet; one that nobody writes to is empty.
  std::size_t read(std::span<std::byte> bytes);

 private:
  [[noreturn]] void fail(const char* action, int error) const;

  std::filesystem::path path_;
  int descriptor_;
};

/// A file mapped read-only. Throws DataError naming the path when it can't be opened, is a
/// directory, or can't be mapped. An empty file gives an empty span.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Sequential writer that ends in a complete file or in none: bytes go to
/// own_temporary(`path` + ".tmp"), so that of two processes with one path each writes a whole file
/// and the later one stays; `commit` fsyncs, renames and fsyncs the folder. Destroyed without
/// commit, it removes the temporary file. Throws DiskError (path, bytes written, the system's
/// reason, free space of a full disk) when the disk is full or not writable.
class DurableFile {
 public:
  explicit DurableFile(const std::filesystem::path& path);
  ~DurableFile();
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }
  /// Replaces bytes that were written before: headers whose content is known only at the end.
  /// UsageError beyond them.
  void overwrite(std::uint64_t offset, std::span<const std::byte> bytes);
  std::uint64_t bytes_written() const { return bytes_written_; }
  void commit();

 private:
  [[noreturn]] void fail(const char* action, int error) const;
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);

  std::filesystem::path path_, temporary_;
  int descriptor_ = -1;
  std::uint64_t bytes_written_ = 0;
};

/// Writes a whole small file through DurableFile.
void write_file(const std::filesystem::path& path, std::string_view text);
/// Reads a whole small file, or a pipe to its end, as text; throws DataError naming the path, also
/// when it is larger than max_bytes.
std::string read_file(const std::filesystem::path& path, std::uint64_t max_bytes = 256u << 20);
/// fsync of a directory, so that a rename in it survives a power cut. Throws DiskError.
void sync_directory(const std::filesystem::path& directory);

}  // namespace fbi
