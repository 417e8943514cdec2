#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace fbi {

/// How kernels use several threads. The trainer passes one over LibTorch's pool (ops/parallel.h),
/// the LibTorch-free program core's own ThreadPool; no process runs both (libgomp's spinning makes
/// that 1.4 times slower).
class ParallelFor {
 public:
  using Body = std::function<void(std::int64_t begin, std::int64_t end)>;
  virtual ~ParallelFor() = default;
  virtual int threads() const = 0;
  /// Calls body over disjoint ranges that cover [begin, end); each range but the last has at least
  /// `grain` items. Returns when all are done. An exception of any call is rethrown in the caller.
  virtual void run(std::int64_t begin, std::int64_t end, std::int64_t grain, const Body& body) = 0;
};

/// Runs the whole range in the calling thread.
class SerialFor final : public ParallelFor {
 public:
  int threads() const override { return 1; }
  void run(std::int64_t begin, std::int64_t end, std::int64_t, const Body& body) override {
    if (begin < end) body(begin, end);
  }
};

/// Persistent threads (the caller is one of them). threads = 0 takes the number of usable
/// processors.
class ThreadPool final : public ParallelFor {
 public:
  explicit ThreadPool(int threads = 0);
  ~ThreadPool() override;
  int threads() const override;
  void run(std::int64_t begin, std::int64_t end, std::int64_t grain, const Body& body) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fbi
