#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "fbi/kernels/cuda.h"

/// Memory, streams and graphs of the current device, each freed by its owner. Errors of CUDA are
/// CudaError; a later call may report an error that an earlier one caused.
namespace fbi::kernels::cuda {

/// Empty where there is a GPU, else why there is none.
std::string why_no_device();
/// "NVIDIA H200", for messages.
std::string device_name();

/// Commands that run one after another, beside the host.
class Queue {
 public:
  Queue();
  Stream stream() const { return stream_.get(); }
  /// Until all that was enqueued is done.
  void wait() const;

 private:
  struct Destroy {
    void operator()(void* stream) const;
  };
  std::unique_ptr<void, Destroy> stream_;
};

/// Device memory, zeroed.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  /// Throws UsageError with size, what is free and a remedy when there is not that much.
  /// `what` completes "… needs", e.g. "the model".
  DeviceMemory(std::size_t bytes, const std::string& what);
  std::size_t size() const { return bytes_; }
  std::byte* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(std::byte* memory) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t bytes_ = 0;
};

/// Host memory that a device reads and writes by itself.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  explicit PinnedMemory(std::size_t bytes);
  std::byte* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(std::byte* memory) const;
  };
  std::unique_ptr<std::byte, Free> data_;
};

/// Host to device; returns when `source` may change.
void upload(void* target, const void* source, std::size_t bytes);
/// Enqueues a copy; the host's side is pinned and stays until it has been made.
void copy_to_device(void* target, const PinnedMemory& source, std::size_t bytes, Stream stream);
void copy_to_host(PinnedMemory& target, const void* source, std::size_t bytes, Stream stream);
void copy_on_device(void* target, const void* source, std::size_t bytes, Stream stream);

/// Commands that were recorded once and are enqueued as one.
class Graph {
 public:
  Graph() = default;
  /// Records what `enqueue` puts into the queue, which then does not run. Only launches and copies
  /// of pinned memory can be recorded.
  Graph(const Queue& queue, const std::function<void()>& enqueue);
  explicit operator bool() const { return graph_ != nullptr; }
  void launch(const Queue& queue) const;

 private:
  struct Destroy {
    void operator()(void* graph) const;
  };
  std::unique_ptr<void, Destroy> graph_;
};

}  // namespace fbi::kernels::cuda
