#include "fbi/kernels/aligned_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace fbi::kernels {
namespace {

constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kHugePage = 2 << 20;
constexpr std::size_t kChunk = 64 << 20;

std::size_t rounded_up(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

std::byte* from_heap(std::size_t bytes) {
  const std::size_t rounded = rounded_up(bytes, kCacheLine);
  void* memory = std::aligned_alloc(kCacheLine, rounded);
  if (!memory) throw std::bad_alloc();
  return static_cast<std::byte*>(std::memset(memory, 0, rounded));
}

/// At a multiple of the huge page; what of it is never touched costs nothing.
std::byte* mapped(std::size_t bytes) {
  const std::size_t reserved = bytes + kHugePage;
  void* memory =
      mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  auto* begin = static_cast<std::byte*>(memory);
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  const std::size_t before = rounded_up(address, kHugePage) - address;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + bytes, kHugePage - before);
  madvise(begin + before, bytes, MADV_HUGEPAGE);  // a wish; may fail
  return begin + before;
}

}  // namespace

AlignedMemory::AlignedMemory(std::size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  const std::size_t rounded = bytes >= kHugePage ? rounded_up(bytes, kHugePage) : 0;
  data_ = {rounded ? mapped(rounded) : from_heap(bytes), Free{rounded}};
}

void AlignedMemory::Free::operator()(std::byte* memory) const {
  if (mapped_bytes) {
    munmap(memory, mapped_bytes);
  } else {
    std::free(memory);
  }
}

std::byte* Arena::take(std::size_t bytes) {
  bytes = rounded_up(bytes, kCacheLine);
  if (chunks_.empty() || bytes > chunks_.back().size() - used_) {
    chunks_.emplace_back(std::max(bytes, kChunk));
    used_ = 0;
  }
  std::byte* memory = chunks_.back().data() + used_;
  used_ += bytes;
  return memory;
}

}  // namespace fbi::kernels
