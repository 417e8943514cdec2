#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "fbi/core/parallel.h"

namespace fbi::bench {

/// Larger than any cache.
inline constexpr std::int64_t kMemoryBytes = 256 << 20;

/// Bytes read and written per second by copying so many with these threads, often enough for a
/// clock; the best of five. Few bytes stay in cache, as those of a kernel do that has few.
inline double copy_bandwidth(ParallelFor& parallel, std::int64_t size = kMemoryBytes) {
  static std::map<std::pair<int, std::int64_t>, double> measured;
  double& best = measured[{parallel.threads(), size}];
  if (best > 0) return best;
  // Half a page apart: at equal places within a page a load waits for the store before it, and
  // Zen 3 copies by bytes where two places differ by a few.
  constexpr std::int64_t kPage = 4096;
  const std::int64_t apart = (size + kPage - 1) / kPage * kPage + kPage / 2;
  std::vector<char> memory(static_cast<std::size_t>(apart + size + kPage), 1);
  char* from = memory.data() + kPage - reinterpret_cast<std::uintptr_t>(memory.data()) % kPage;
  char* to = from + apart;
  const std::int64_t copies = std::max<std::int64_t>(1, (std::int64_t{64} << 20) / size);
  for (int k = 0; k < 5; ++k) {
    const auto start = std::chrono::steady_clock::now();
    for (std::int64_t copy = 0; copy < copies; ++copy) {
      parallel.run(0, size, 1 << 20, [&](std::int64_t begin, std::int64_t end) {
        std::memcpy(to + begin, from + begin, static_cast<std::size_t>(end - begin));
        benchmark::ClobberMemory();
      });
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, 2 * static_cast<double>(size * copies) / seconds.count());
  }
  return best;
}

/// Reports memory traffic per second, also as a share of the copy bandwidth of as many threads.
inline void report_traffic(benchmark::State& state, ParallelFor& parallel,
                           double bytes_per_iteration, std::int64_t copied = kMemoryBytes) {
  using benchmark::Counter;
  const double bytes = bytes_per_iteration * static_cast<double>(state.iterations());
  state.counters["GB/s"] = Counter(bytes / 1e9, Counter::kIsRate);
  state.counters["of_copy"] = Counter(bytes / copy_bandwidth(parallel, copied), Counter::kIsRate);
}

}  // namespace fbi::bench
