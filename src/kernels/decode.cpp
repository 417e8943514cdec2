#include "fbi/kernels/decode.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/dispatch.h"
#include "kernels/gemv_kernels.h"

namespace fbi::kernels {
namespace {

/// In four chains, so that an addition need not wait for the one before.
double sum_of(const float* x, std::int64_t count) {
  double sums[4] = {};
  for (std::int64_t i = 0; i < count; ++i) sums[i % 4] += x[i];
  return sums[0] + sums[1] + sums[2] + sums[3];
}

}  // namespace

void rms_norm(const float* x, const float* weight, std::int64_t count, double eps, float* out) {
  const double mean = cpu_kernels().sum_of_squares(x, count) / static_cast<double>(count);
  cpu_kernels().scaled_product(x, static_cast<float>(1 / std::sqrt(mean + eps)), weight, count,
                               out);
}

void silu_product(float* gate, const float* up, std::int64_t count) {
  cpu_kernels().silu_product(gate, up, count, gate);
}

std::int64_t size_of(CacheType type) {
  return type == CacheType::kFp32 ? 4 : 2;
}

std::int64_t padded_head(std::int64_t head_dim) {
  return (head_dim + kPadding - 1) / kPadding * kPadding;
}

void store_cache(const float* x, std::int64_t head_dim, CacheType type, std::byte* out) {
  const std::int64_t padding = padded_head(head_dim) - head_dim;
  std::memset(out + head_dim * size_of(type), 0, padding * size_of(type));
  if (type == CacheType::kFp32) {
    std::memcpy(out, x, head_dim * sizeof *x);
    return;
  }
  gemv_kernels().to_half(x, head_dim, reinterpret_cast<std::uint16_t*>(out));
}

void attend(const AttendArgs& args) {
  const GemvKernels& kernels = gemv_kernels();
  const CpuKernels& cpu = cpu_kernels();
  const bool half = args.type == CacheType::kFp16;
  const std::int64_t width = padded_head(args.head_dim);
  const DenseProduct& product = half ? kernels.fp16 : kernels.fp32;
  product.rows(args.keys, width * size_of(args.type), width, args.query, args.positions,
               args.scores);

  const float factor = 1 / std::sqrt(static_cast<float>(args.head_dim));
  const float largest = cpu.max(args.scores, args.positions);
  for (std::int64_t p = 0; p < args.positions; ++p) {
    args.scores[p] = (args.scores[p] - largest) * factor;
  }
  cpu.exp(args.scores, args.positions, args.scores);
  (half ? kernels.mix_fp16 : kernels.mix_fp32)(args.scores, args.values, args.positions, width,
                                               args.out);
  const auto inverse = static_cast<float>(1 / sum_of(args.scores, args.positions));
  for (std::int64_t e = 0; e < width; ++e) args.out[e] *= inverse;
}

}  // namespace fbi::kernels
