#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <vector>

#include "fbi/core/parallel.h"

namespace fbi::bench {

/// Bytes read and written per second by copying 256 MiB with these threads; the best of five.
inline double copy_bandwidth(ParallelFor& parallel) {
  static std::map<int, double> measured;
  double& best = measured[parallel.threads()];
  if (best > 0) return best;
  std::vector<char> from(256 << 20, 1), to(from.size());
  for (int k = 0; k < 5; ++k) {
    const auto start = std::chrono::steady_clock::now();
    parallel.run(0, std::ssize(from), 1 << 20, [&](std::int64_t begin, std::int64_t end) {
      std::memcpy(&to[begin], &from[begin], static_cast<std::size_t>(end - begin));
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, 2 * static_cast<double>(from.size()) / seconds.count());
  }
  return best;
}

/// Reports memory traffic per second, also as a share of the copy bandwidth of as many threads.
inline void report_traffic(benchmark::State& state, ParallelFor& parallel,
                           double bytes_per_iteration) {
  using benchmark::Counter;
  const double bytes = bytes_per_iteration * static_cast<double>(state.iterations());
  state.counters["GB/s"] = Counter(bytes / 1e9, Counter::kIsRate);
  state.counters["of_copy"] = Counter(bytes / copy_bandwidth(parallel), Counter::kIsRate);
}

}  // namespace fbi::bench
