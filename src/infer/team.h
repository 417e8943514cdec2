#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "fbi/core/parallel.h"

namespace fbi::infer {

/// Where threads that run in step wait for each other: they spin for some microseconds, then sleep,
/// so that a busy machine is not made busier.
class StepBarrier {
 public:
  explicit StepBarrier(int size) : size_(size) {}
  void wait();

 private:
  const int size_;
  std::atomic<int> arrived_ = 0;
  std::atomic<unsigned> phase_ = 0;
};

/// One thread of a Team while it runs.
struct Member {
  int rank = 0;
  int size = 1;
  StepBarrier* barrier = nullptr;

  /// All members have come here before any goes on.
  void meet() const {
    if (size > 1) barrier->wait();
  }
  struct Range {
    std::int64_t begin, end;
  };
  /// This member's part of [0, items): a function of rank, size and items alone.
  Range share(std::int64_t items) const { return {items * rank / size, items * (rank + 1) / size}; }
};

/// Runs one function on all threads of a pool at once. A decode step meets some hundred times; a
/// thread start for each of its products would take longer than the products.
class Team {
 public:
  explicit Team(int threads) : pool_(threads) {}
  int size() const { return pool_.threads(); }
  ParallelFor& pool() { return pool_; }
  /// `work` must not throw: the others would wait for ever. Within another pool's body it runs on
  /// the calling thread alone.
  void run(const std::function<void(const Member&)>& work);

 private:
  ThreadPool pool_;
};

}  // namespace fbi::infer
