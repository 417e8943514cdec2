#include "fbi/kernels/layer.h"

#include <cmath>

#include "kernels/blocks.h"
#include "kernels/dispatch.h"

namespace fbi::kernels {

void rms_norm(const RmsNormInput& input, double eps, float* out, float* inverse_rms,
              ParallelFor& parallel) {
  const CpuKernels& kernels = cpu_kernels();
  const auto [x, weight, tokens, width] = input;
  parallel.run(
      0, tokens, grain_rows(width), [&, x, weight, width](std::int64_t begin, std::int64_t end) {
        for (std::int64_t t = begin; t < end; ++t) {
          const double mean =
              kernels.sum_of_squares(x + t * width, width) / static_cast<double>(width);
          // In fp32, as the published implementation has it: bf16 runs amplify even the last bit of
          // this.
          inverse_rms[t] = 1 / std::sqrt(static_cast<float>(mean) + static_cast<float>(eps));
          kernels.scaled_product(x + t * width, inverse_rms[t], weight, width, out + t * width);
        }
      });
}

void rms_norm_backward(const RmsNormInput& input, const float* inverse_rms, const float* dout,
                       float* dx, float* dweight, ParallelFor& parallel) {
  const CpuKernels& kernels = cpu_kernels();
  const auto [x, weight, tokens, width] = input;
  if (dweight) {  // before dx, which may take the place of x or dout
    const auto sums = sum_row_blocks(
        tokens, width, parallel, [&, x, width](std::int64_t begin, std::int64_t end, double* part) {
          for (std::int64_t t = begin; t < end; ++t) {
            kernels.add_scaled_products(dout + t * width, x + t * width, inverse_rms[t], width,
                                        part);
          }
        });
    for (std::int64_t i = 0; i < width; ++i)
      dweight[i] += static_cast<float>(sums[static_cast<std::size_t>(i)]);
  }
  parallel.run(0, tokens, grain_rows(width),
               [&, x, weight, width](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t t = begin; t < end; ++t) {
                   kernels.rms_norm_backward_row(x + t * width, weight, dout + t * width,
                                                 inverse_rms[t], width, dx + t * width);
                 }
               });
}

void silu_product(const float* gate, const float* up, std::int64_t count, float* out,
                  ParallelFor& parallel) {
  const CpuKernels& kernels = cpu_kernels();
  parallel.run(0, count, kGrainElements, [&](std::int64_t begin, std::int64_t end) {
    kernels.silu_product(gate + begin, up + begin, end - begin, out + begin);
  });
}

void silu_product_backward(const float* dout, const float* gate, const float* up,
                           std::int64_t count, float* dgate, float* dup, ParallelFor& parallel) {
  const CpuKernels& kernels = cpu_kernels();
  parallel.run(0, count, kGrainElements, [&](std::int64_t begin, std::int64_t end) {
    kernels.silu_product_backward(dout + begin, gate + begin, up + begin, end - begin,
                                  dgate + begin, dup + begin);
  });
}

void rotary(const RotaryInput& input, bool inverse, float* out, ParallelFor& parallel) {
  const CpuKernels& kernels = cpu_kernels();
  const std::int64_t half = input.head_dim / 2, row = input.heads * input.head_dim;
  parallel.run(
      0, input.batch * input.positions, grain_rows(row), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t n = begin; n < end; ++n) {
          const std::int64_t b = n / input.positions, s = n % input.positions;
          const float* x = input.x + b * input.batch_stride + s * input.position_stride;
          for (std::int64_t h = 0; h < input.heads; ++h) {
            kernels.rotate(x + h * input.head_stride, input.cos + s * half, input.sin + s * half,
                           inverse, half, out + n * row + h * input.head_dim);
          }
        }
      });
}

}  // namespace fbi::kernels
