#pragma once

#include <benchmark/benchmark.h>

#include <string>

#include "fbi/kernels/dispatch.h"

namespace fbi::bench {

/// Reads Google Benchmark's flags and runs what register_all registers; returns the exit status.
inline int run_benchmarks(int argc, char** argv, void (*register_all)()) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::AddCustomContext("kernel level",
                              std::string(kernels::level_name(kernels::chosen_level())));
  register_all();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace fbi::bench
