// Products of several tokens with a one-bit matrix, one thread: from sign tables, exact and with
// 8-bit inputs, and as dense fp32 products, the signs unpacked before each, by oneDNN (what
// training takes) and by the BLAS of at::mm (MKL). Training's signs change in every step, so its
// tables read signs that are put in order anew for each product; those of a prompt are put in order
// once. Columns: operations per second that a dense product has, and their share of the measured
// peak.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "bench/arithmetic_peak.h"
#include "bench/run_benchmarks.h"
#include "fbi/core/system.h"
#include "fbi/kernels/gemv.h"
#include "fbi/ops/matrix_product.h"

namespace fbi::bench {
namespace {

using namespace kernels;  // NOLINT

struct Case {
  std::int64_t tokens;
  MatrixShape shape;  ///< outputs, inputs
  bool orders_signs_once;
};
constexpr Case kCases[] = {
    {2048, {256, 256}, false},  {2048, {688, 256}, false},  {1024, {768, 768}, false},
    {1024, {2048, 768}, false}, {1024, {768, 2048}, false}, {16, {2048, 768}, true},
    {512, {2048, 768}, true},   {16, {5632, 2048}, true},   {512, {5632, 2048}, true},
};

/// One matrix and its inputs.
struct Product {
  explicit Product(const Case& given)
      : shape(given.shape),
        bits(static_cast<std::size_t>(shape.rows * row_bytes(shape.columns)), 0x5A),
        scales(at::randn({shape.columns})),
        x(at::randn({given.tokens, shape.columns})) {}

  BinaryLinear ordered(Activations activations) {
    const std::span<const float> values{scales.const_data_ptr<float>(),
                                        static_cast<std::size_t>(shape.columns)};
    return {bits.data(), values, values, ScaleStrides::per_column(), shape, activations, serial};
  }
  at::Tensor dense() {
    at::Tensor w = at::empty({shape.rows, shape.columns});
    effective_weight(bits.data(), scales.const_data_ptr<float>(), scales.const_data_ptr<float>(),
                     ScaleStrides::per_column(), shape, w.data_ptr<float>(), serial);
    return w;
  }
  at::Tensor by_tables(const BinaryLinear& w) {
    at::Tensor y = at::empty({x.size(0), shape.rows});
    multiply(w, x.const_data_ptr<float>(), x.size(0), y.data_ptr<float>(), serial);
    return y;
  }

  MatrixShape shape;
  std::vector<std::uint8_t> bits;
  at::Tensor scales, x;
  SerialFor serial;
};

void measure(benchmark::State& state, const Case& given, Product& product,
             const std::function<at::Tensor()>& call) {
  arithmetic_peak(product.serial);
  for (auto _ : state) benchmark::DoNotOptimize(call());
  report_arithmetic(
      state, product.serial,
      2.0 * static_cast<double>(given.tokens * given.shape.rows * given.shape.columns));
}

void tables(benchmark::State& state, const Case& given, Activations activations) {
  Product product(given);
  const BinaryLinear once = product.ordered(activations);
  measure(state, given, product, [&] {
    return given.orders_signs_once ? product.by_tables(once)
                                   : product.by_tables(product.ordered(activations));
  });
}

void dense(benchmark::State& state, const Case& given,
           at::Tensor (*multiply)(const at::Tensor&, const at::Tensor&)) {
  Product product(given);
  measure(state, given, product, [&] { return multiply(product.x, product.dense().t()); });
}

void register_all() {
  for (const Case& given : kCases) {
    const std::string suffix = std::string(given.orders_signs_once ? "/prompt/" : "/training/") +
                               std::to_string(given.tokens) + "x" +
                               std::to_string(given.shape.columns) + "x" +
                               std::to_string(given.shape.rows);
    const auto add = [&](const char* name, auto function) {
      benchmark::RegisterBenchmark((name + suffix).c_str(), function)
          ->Unit(benchmark::kMillisecond);
    };
    add("tables/exact", [&given](auto& state) { tables(state, given, Activations::kExact); });
    add("tables/int8", [&given](auto& state) { tables(state, given, Activations::kInt8); });
    add("dense/oneDNN", [&given](auto& state) { dense(state, given, ops::matrix_product); });
    add("dense/MKL", [&given](auto& state) { dense(state, given, at::mm); });
  }
}

}  // namespace
}  // namespace fbi::bench

int main(int argc, char** argv) {
  const at::NoGradGuard no_grad;
  at::set_num_threads(1);
  fbi::keep_freed_memory();  // as the programs do
  return fbi::bench::run_benchmarks(argc, argv, fbi::bench::register_all);
}
