#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "bench/arithmetic_peak.h"
#include "bench/copy_bandwidth.h"
#include "fbi/core/random.h"

namespace fbi::bench {

/// A tile of normal numbers, repeated.
inline std::vector<float> normals(std::int64_t count, std::uint64_t stream) {
  constexpr std::size_t kTile = 1 << 12;
  std::vector<float> values(static_cast<std::size_t>(count));
  fill_normal({values.data(), std::min(values.size(), kTile)}, 1, stream, 0, 0, 1);
  for (std::size_t i = kTile; i < values.size(); ++i) values[i] = values[i - kTile];
  return values;
}

/// Calls kernel(parallel) repeatedly; bytes is its least possible memory traffic.
template <class Kernel>
void measure(benchmark::State& state, std::int64_t bytes, const Kernel& kernel) {
  ThreadPool parallel(static_cast<int>(state.range(0)));
  copy_bandwidth(parallel);
  for (auto _ : state) kernel(parallel);
  report_traffic(state, parallel, static_cast<double>(bytes));
}

/// Calls a serial kernel on bytes that stay in a cache; they are compared with copying as many.
template <class Kernel>
void measure_in_cache(benchmark::State& state, std::int64_t bytes, const Kernel& kernel) {
  SerialFor serial;
  copy_bandwidth(serial, bytes / 2);
  for (auto _ : state) {
    kernel();
    benchmark::ClobberMemory();
  }
  report_traffic(state, serial, static_cast<double>(bytes), bytes / 2);
}

/// Calls kernel(parallel) repeatedly; operations are those of the same products with dense weights.
template <class Kernel>
void measure_products(benchmark::State& state, double operations, const Kernel& kernel) {
  ThreadPool parallel(static_cast<int>(state.range(0)));
  arithmetic_peak(parallel);
  for (auto _ : state) kernel(parallel);
  report_arithmetic(state, parallel, operations);
}

/// With 1 and 2 threads.
template <class Function>
void add(const char* name, Function function) {
  benchmark::RegisterBenchmark(name, std::move(function))
      ->Arg(1)
      ->Arg(2)
      ->ArgName("threads")
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}

template <class Function>
void add_serial(const char* name, Function function) {
  benchmark::RegisterBenchmark(name, std::move(function))->Unit(benchmark::kMicrosecond);
}

void register_matrix_kernels();  ///< matrix_kernels_bench.cpp
void register_layer_kernels();   ///< layer_kernels_bench.cpp: between products, and the loss
void register_decode_kernels();  ///< decode_kernels_bench.cpp: one token, and products of several

}  // namespace fbi::bench
