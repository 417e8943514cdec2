#include "train/matrix_rate.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <span>

#include "fbi/core/random.h"
#include "fbi/ops/fp8.h"
#include "fbi/ops/matrix_product.h"

namespace fbi::train {
namespace {

constexpr std::int64_t kTile = 512;
constexpr double kEnoughSeconds = 0.5;  // single products vary with what else the machine does

/// A tile of normal numbers, repeated: zeros or constants would let a GPU clock higher.
at::Tensor random_square(std::int64_t size, std::uint64_t stream, at::ScalarType dtype,
                         at::Device device) {
  at::Tensor tile = at::empty({kTile, kTile}, at::kFloat);
  fill_normal({tile.data_ptr<float>(), static_cast<std::size_t>(tile.numel())}, /*seed=*/1, stream,
              0, 0.0, 1.0);
  return tile.to(device, dtype).repeat({size / kTile, size / kTile});
}

}  // namespace

double measure_matrix_rate(at::ScalarType dtype, at::Device device) {
  const std::int64_t size = device.is_cpu() ? 1024 : dtype == at::kFloat ? 4096 : 8192;
  const bool fp8 = dtype == at::kFloat8_e4m3fn;
  const at::ScalarType given = fp8 ? at::kBFloat16 : dtype;
  const at::Tensor a = random_square(size, 1, given, device),
                   b = random_square(size, 2, given, device);
  ops::Fp8Rows a8, b8;
  if (fp8) a8 = ops::quantize_rows(a), b8 = ops::quantize_rows(b);
  const auto multiply = [&] {
    const at::Tensor product =
        fp8 ? ops::fp8_product(a8, b8, given, ops::Fp8Sums::kFast) : ops::matrix_product(a, b);
    product[0][0].item();  // to look at a number waits for a GPU
  };
  multiply();
  double best = std::numeric_limits<double>::infinity(), total = 0;
  while (total < kEnoughSeconds) {
    const auto start = std::chrono::steady_clock::now();
    multiply();
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::min(best, seconds);
    total += seconds;
  }
  const auto n = static_cast<double>(size);
  return std::round(2 * n * n * n / best);
}

}  // namespace fbi::train
