#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>

#include "fbi/core/parallel.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fbi::bench {

/// Operations in flight: what latency and throughput of any processor ask for.
inline constexpr int kChains = 12;

#if defined(__x86_64__)
/// Defines name(rounds): in each round kChains values become `next` of (value, start), on
/// registers. A macro, because a lambda would not take the function's instruction sets.
#define FBI_ROUNDS_ON_REGISTERS(name, instruction_sets, Vector, start_value, next)  \
  __attribute__((target(instruction_sets))) inline void name(std::int64_t rounds) { \
    const Vector start = start_value;                                               \
    Vector values[::fbi::bench::kChains];                                           \
    for (auto& value : values) value = start;                                       \
    for (std::int64_t k = 0; k < rounds; ++k) {                                     \
      _Pragma("GCC unroll 12") for (auto& value : values) {                         \
        value = next;                                                               \
        asm volatile("" : "+v"(value)); /* or the loop would be taken apart */      \
      }                                                                             \
    }                                                                               \
  }
FBI_ROUNDS_ON_REGISTERS(multiply_adds_avx512, "avx512f", __m512, _mm512_set1_ps(0.5f),
                        _mm512_fmadd_ps(value, start, start))
FBI_ROUNDS_ON_REGISTERS(multiply_adds_avx2, "avx2,fma", __m256, _mm256_set1_ps(0.5f),
                        _mm256_fmadd_ps(value, start, start))
#endif

/// A multiplication and an addition of 4 numbers each, where nothing better is known.
inline void multiply_adds_plain(std::int64_t rounds) {
  typedef float Four __attribute__((vector_size(16)));
  Four sums[kChains];
  for (auto& sum : sums) sum = Four{1, 1, 1, 1};
  const Four factor = {0.5f, 0.5f, 0.5f, 0.5f};
  for (std::int64_t k = 0; k < rounds; ++k) {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = sum * factor + factor;
    benchmark::DoNotOptimize(sums);
  }
}

/// fp32 operations per second of multiply-adds on registers with these threads, by the widest
/// vectors that the processor has; the best of five. What dense products can't exceed.
inline double arithmetic_peak(ParallelFor& parallel) {
  static std::map<int, double> measured;
  double& best = measured[parallel.threads()];
  if (best > 0) return best;
  void (*multiply_adds)(std::int64_t) = multiply_adds_plain;
  int lanes = 4;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) {
    multiply_adds = multiply_adds_avx512, lanes = 16;
  } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    multiply_adds = multiply_adds_avx2, lanes = 8;
  }
#endif
  constexpr std::int64_t kRounds = 1 << 20;
  for (int k = 0; k < 5; ++k) {
    const auto start = std::chrono::steady_clock::now();
    parallel.run(0, parallel.threads(), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) multiply_adds(kRounds);
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    const double operations = 2.0 * lanes * kChains * kRounds * parallel.threads();
    best = std::max(best, operations / seconds.count());
  }
  return best;
}

/// Reports the operations per second of a dense product's arithmetic, also as a share of the peak.
/// Products from sign tables need fewer: a share above 1 is theirs to have.
inline void report_arithmetic(benchmark::State& state, ParallelFor& parallel,
                              double operations_per_iteration) {
  using benchmark::Counter;
  const double operations = operations_per_iteration * static_cast<double>(state.iterations());
  state.counters["GFLOP/s"] = Counter(operations / 1e9, Counter::kIsRate);
  state.counters["of_peak"] = Counter(operations / arithmetic_peak(parallel), Counter::kIsRate);
}

}  // namespace fbi::bench
