#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace fbi::fuzz {

/// A file that lies in memory and has a path.
class MemoryFile {
 public:
  MemoryFile(const void* data, std::size_t size) : descriptor_(memfd_create("fuzz", 0)) {
    if (descriptor_ < 0 || pwrite(descriptor_, data, size, 0) != static_cast<ssize_t>(size)) {
      std::abort();
    }
  }
  ~MemoryFile() { close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

/// Reads all bytes that a parser hands out, so that a sanitizer sees where they lie.
template <class Tensors>
std::uint64_t touch(const Tensors& tensors) {
  std::uint64_t sum = 0;
  for (const auto& tensor : tensors) {
    for (const std::byte byte : tensor.bytes) sum += static_cast<std::uint64_t>(byte);
  }
  return sum;
}

/// Keeps `touch` from being optimised away.
inline volatile std::uint64_t sink;

}  // namespace fbi::fuzz
