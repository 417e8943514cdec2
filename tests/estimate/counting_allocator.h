#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>

#include <c10/core/CPUAllocator.h>

namespace fbi::estimate {

/// While it exists, every tensor on the CPU comes from here: counts the bytes that live, and their
/// maximum. One at a time; it must outlive the tensors that were made with it.
class CountingAllocator final : public c10::Allocator {
 public:
  CountingAllocator() : before_(c10::GetCPUAllocator()) {
    instance_ = this;
    c10::SetCPUAllocator(this, kPriority);
  }
  ~CountingAllocator() override { c10::SetCPUAllocator(before_, kPriority); }

  std::int64_t live() const { return live_; }
  std::int64_t peak() const { return peak_; }
  void restart_peak() { peak_ = live_; }

  c10::DataPtr allocate(std::size_t bytes) override {
    auto* block = static_cast<char*>(std::aligned_alloc(kHeader, (bytes / kHeader + 2) * kHeader));
    if (!block) throw std::bad_alloc();
    *reinterpret_cast<std::int64_t*>(block) = static_cast<std::int64_t>(bytes);
    count(static_cast<std::int64_t>(bytes));
    return {block + kHeader, block + kHeader, &CountingAllocator::release, at::Device(at::kCPU)};
  }
  /// LibTorch's bf16 products ask for raw memory.
  c10::DeleterFnPtr raw_deleter() const override { return &CountingAllocator::release; }
  void copy_data(void* target, const void* source, std::size_t bytes) const override {
    default_copy_data(target, source, bytes);
  }

 private:
  static constexpr std::uint8_t kPriority = 100;
  static constexpr std::size_t kHeader = 64;  ///< holds the size, keeps the alignment

  static void release(void* data) {
    if (!data) return;
    char* block = static_cast<char*>(data) - kHeader;
    instance_->count(-*reinterpret_cast<std::int64_t*>(block));
    std::free(block);
  }

  void count(std::int64_t bytes) {
    const std::lock_guard lock(mutex_);
    live_ += bytes;
    peak_ = std::max(peak_, live_);
  }

  static inline CountingAllocator* instance_ = nullptr;
  c10::Allocator* before_;
  std::mutex mutex_;
  std::int64_t live_ = 0, peak_ = 0;
};

}  // namespace fbi::estimate
