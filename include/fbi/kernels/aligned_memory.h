#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace fbi::kernels {

/// Zeroed memory that begins at a cache line, and on huge pages where it is large and the system
/// has them: what is streamed once per token should not wait for page tables.
class AlignedMemory {
 public:
  AlignedMemory() = default;
  /// Throws std::bad_alloc.
  explicit AlignedMemory(std::size_t bytes);

  std::size_t size() const { return size_; }
  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(data());
  }
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(data());
  }

 private:
  struct Free {
    std::size_t mapped_bytes;  ///< 0: from the heap
    void operator()(std::byte* memory) const;
  };
  std::unique_ptr<std::byte, Free> data_{nullptr, Free{0}};
  std::size_t size_ = 0;
};

/// Memory for many matrices that live and die together, one behind the other on huge pages, which
/// most of them alone are too small for.
class Arena {
 public:
  /// Zeroed, beginning at a cache line; lives as long as the arena. Throws std::bad_alloc.
  std::byte* take(std::size_t bytes);

 private:
  std::vector<AlignedMemory> chunks_;
  std::size_t used_ = 0;  // of the last chunk
};

}  // namespace fbi::kernels
