#include "infer/team.h"

#include "fbi/core/spin.h"

namespace fbi::infer {

void StepBarrier::wait() {
  const unsigned phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    phase_.notify_all();
    return;
  }
  if (spin_until([&] { return phase_.load(std::memory_order_acquire) != phase; })) return;
  phase_.wait(phase, std::memory_order_acquire);
}

void Team::run(const std::function<void(const Member&)>& work) {
  const int threads = size();
  StepBarrier barrier(threads);
  std::vector<Taken> taken(static_cast<std::size_t>(threads));
  pool_.run(0, threads, 1, [&](std::int64_t begin, std::int64_t end) {
    // One item each, all at once; or, inside another body, all items in one call.
    if (end - begin == threads) return work({});
    work({static_cast<int>(begin), threads, &barrier, taken.data()});
  });
}

}  // namespace fbi::infer
