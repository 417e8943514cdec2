#include "fbi/core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "fbi/core/error.h"
#include "fbi/core/human.h"
#include "fbi/core/system.h"
#include "fbi/core/temporary.h"

namespace fbi {
namespace {

std::string free_space_note(const std::filesystem::path& path) {
  try {
    return concat(format_bytes(free_disk_bytes(path)), " free there");
  } catch (const DiskError&) {
    return "free space unknown";
  }
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : ".";
}

/// What helps against an error of writing `path`; "" when nothing is known.
std::string remedy(const std::filesystem::path& path, int error) {
  if (error == ENOSPC || error == EDQUOT) return concat(" (", free_space_note(path), ")");
  std::error_code ignored;
  const auto folder = folder_of(path);
  if (error == ENOENT && !std::filesystem::exists(folder, ignored))
    return concat("; the folder ", folder.string(), " is missing: mkdir -p ", folder.string());
  return "";
}

}  // namespace

// O_NONBLOCK: opening a named pipe without a writer must not wait here.
InputFile::InputFile(const std::filesystem::path& path)
    : path_(path), descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (descriptor_ < 0) fail("cannot open", errno);
  if (is_pipe()) fcntl(descriptor_, F_SETFL, fcntl(descriptor_, F_GETFL) & ~O_NONBLOCK);
}

InputFile::~InputFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

void InputFile::fail(const char* action, int error) const {
  throw DataError(concat(action, " ", path_.string(), ": ", std::strerror(error)));
}

bool InputFile::is_pipe() const {
  struct stat info = {};
  return fstat(descriptor_, &info) == 0 && S_ISFIFO(info.st_mode);
}

std::uint64_t InputFile::size() const {
  struct stat info = {};
  if (fstat(descriptor_, &info) != 0) fail("cannot examine", errno);
  if (S_ISDIR(info.st_mode)) fail("cannot read", EISDIR);
  if (S_ISFIFO(info.st_mode)) return 0;
  if (!S_ISREG(info.st_mode)) throw DataError(concat(path_.string(), " is not a regular file"));
  return static_cast<std::uint64_t>(info.st_size);
}

std::size_t InputFile::read(std::span<std::byte> bytes) {
  std::size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t count = ::read(descriptor_, bytes.data() + filled, bytes.size() - filled);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail("cannot read", errno);
    if (count == 0) break;
    filled += static_cast<std::size_t>(count);
  }
  return filled;
}

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const InputFile input(path_);
  if (input.is_pipe()) throw DataError(concat(path_.string(), " is not a regular file"));
  size_ = input.size();
  if (size_ == 0) return;
  void* address = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, input.descriptor(), 0);
  if (address == MAP_FAILED)
    throw DataError(concat("cannot map ", path_.string(), ": ", std::strerror(errno)));
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::~MappedFile() {
  if (data_) munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

DurableFile::DurableFile(const std::filesystem::path& path) : path_(path), temporary_(path) {
  temporary_ += ".tmp";
  remove_dead_temporaries(temporary_);
  temporary_ = own_temporary(temporary_);
  descriptor_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail("cannot create", errno);
}

DurableFile::~DurableFile() {
  if (descriptor_ < 0) return;
  close(descriptor_);
  unlink(temporary_.c_str());
}

void DurableFile::fail(const char* action, int error) const {
  const bool begun = descriptor_ >= 0 || bytes_written_ > 0;
  throw DiskError(concat(action, " ", path_.string(),
                         begun ? concat(" after ", bytes_written_, " bytes") : "", ": ",
                         std::strerror(error), remedy(path_, error)));
}

void DurableFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  // Linux writes at most 2 GB a call; short writes and interrupts are normal.
  while (!bytes.empty()) {
    const ssize_t written =
        pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("cannot write", errno);
    if (written == 0) fail("cannot write", ENOSPC);
    offset += static_cast<std::uint64_t>(written);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    bytes_written_ = std::max(bytes_written_, offset);
  }
}

void DurableFile::write(std::span<const std::byte> bytes) {
  write_at(bytes_written_, bytes);
}

void DurableFile::overwrite(std::uint64_t offset, std::span<const std::byte> bytes) {
  if (offset > bytes_written_ || bytes.size() > bytes_written_ - offset) {
    throw UsageError(concat("overwrite of ", path_.string(), ": expected a range within the ",
                            bytes_written_, " bytes written, found ", bytes.size(),
                            " bytes at offset ", offset));
  }
  write_at(offset, bytes);
}

void DurableFile::commit() {
  if (fsync(descriptor_) != 0) fail("cannot flush", errno);
  // Network file systems report a full disk as late as here. The descriptor is gone either way.
  if (close(std::exchange(descriptor_, -1)) != 0) {
    const int error = errno;
    unlink(temporary_.c_str());
    fail("cannot close", error);
  }
  if (rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    unlink(temporary_.c_str());
    fail("cannot rename the finished file to", error);
  }
  sync_directory(folder_of(path_));
}

void write_file(const std::filesystem::path& path, std::string_view text) {
  DurableFile file(path);
  file.write(text);
  file.commit();
}

std::string read_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  InputFile input(path);
  const auto too_large = [&](const auto&... found) {
    throw DataError(concat("cannot read ", path.string(), ": expected at most ", max_bytes,
                           " bytes, found ", found...));
  };
  if (input.size() > max_bytes) too_large(input.size());
  constexpr std::size_t kPipeStep = 1 << 16;
  const std::size_t step = input.is_pipe() ? kPipeStep : input.size();
  std::string text;
  for (std::size_t count = step; count == step && step > 0;) {
    const std::size_t old = text.size();
    text.resize(old + step);
    count = input.read(std::as_writable_bytes(std::span(text)).subspan(old));
    text.resize(old + count);  // a file may have become shorter meanwhile
    if (!input.is_pipe()) break;
    if (text.size() > max_bytes) too_large("more");
  }
  return text;
}

void sync_directory(const std::filesystem::path& directory) {
  const int descriptor = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int error = descriptor < 0 ? errno : 0;
  if (descriptor >= 0) {
    // Some network file systems can't sync a folder and say so with EINVAL; their renames are as
    // durable as they get.
    if (fsync(descriptor) != 0 && errno != EINVAL && errno != ENOTSUP) error = errno;
    close(descriptor);
  }
  if (error != 0) {
    throw DiskError(concat("cannot flush folder ", directory.string(), ": ", std::strerror(error)));
  }
}

}  // namespace fbi
