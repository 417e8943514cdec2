// Each kernel on matrices of the 7B model, with 1 and 2 threads; FBI_KERNEL chooses the level. The
// columns are memory traffic per second and its share of what copying reaches in the same run, or,
// of products with several tokens, arithmetic and its share of multiply-adds on registers.
#include "bench/kernels_bench.h"

#include "bench/run_benchmarks.h"

int main(int argc, char** argv) {
  return fbi::bench::run_benchmarks(argc, argv, [] {
    fbi::bench::register_matrix_kernels();
    fbi::bench::register_layer_kernels();
    fbi::bench::register_decode_kernels();
  });
}
