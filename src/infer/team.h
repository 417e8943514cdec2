#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

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

/// How many pieces of each member's share of some work have been taken. Counters of two phases take
/// turns, so that one of them can be set back while no one uses it.
struct alignas(64) Taken {
  std::atomic<std::int64_t> pieces[2] = {};
  int turn = 0;
};

/// One thread of a Team while it runs.
struct Member {
  int rank = 0;
  int size = 1;
  StepBarrier* barrier = nullptr;
  Taken* taken = nullptr;  // one per member

  /// All members have come here before any goes on.
  void meet() const {
    if (size > 1) barrier->wait();
  }
  struct Range {
    std::int64_t begin, end;
  };
  /// This member's part of [0, items): a function of rank, size and items alone.
  Range share(std::int64_t items) const { return {items * rank / size, items * (rank + 1) / size}; }

  /// Calls work(piece) for pieces [0, count) together with the other members: each takes those of
  /// its share one by one, then what others have left of theirs, so that a core that is slow for a
  /// while does not make the others wait. All members meet between two calls.
  template <class Work>
  void take(std::int64_t count, const Work& work) const;
};

template <class Work>
void Member::take(std::int64_t count, const Work& work) const {
  if (size == 1) {
    for (std::int64_t piece = 0; piece < count; ++piece) work(piece);
    return;
  }
  Taken& own = taken[rank];
  const int turn = own.turn;
  own.turn = 1 - turn;
  own.pieces[own.turn].store(0, std::memory_order_relaxed);
  for (int k = 0; k < size; ++k) {
    const int owner = (rank + k) % size;
    const auto [begin, end] = Member{owner, size}.share(count);
    for (;;) {
      const std::int64_t piece =
          begin + taken[owner].pieces[turn].fetch_add(1, std::memory_order_relaxed);
      if (piece >= end) break;
      work(piece);
    }
  }
}

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
