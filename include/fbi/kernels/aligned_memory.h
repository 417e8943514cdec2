#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>

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
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t size_ = 0;
};

}  // namespace fbi::kernels
