#include "fbi/kernels/binary_matrix.h"

#include "kernels/blocks.h"
#include "kernels/dispatch.h"

namespace fbi::kernels {
namespace {

BinaryRow binary_row(const std::uint8_t* bits, const float* alpha, const float* beta,
                     ScaleStrides strides, std::int64_t columns, std::int64_t row) {
  return {.bits = bits + row * row_bytes(columns),
          .alpha = alpha + row * strides.row,
          .beta = beta + row * strides.row,
          .per_column = strides.column != 0,
          .columns = columns};
}

}  // namespace

void pack_signs(const float* latent, MatrixShape shape, std::uint8_t* bits, ParallelFor& parallel) {
  const CpuKernels& kernels = cpu_kernels();
  parallel.run(0, shape.rows, grain_rows(shape.columns), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t o = begin; o < end; ++o) {
      kernels.pack_row(latent + o * shape.columns, shape.columns,
                       bits + o * row_bytes(shape.columns));
    }
  });
}

void effective_weight(const std::uint8_t* bits, const float* alpha, const float* beta,
                      ScaleStrides strides, MatrixShape shape, float* out, ParallelFor& parallel) {
  check_strides(strides);
  const CpuKernels& kernels = cpu_kernels();
  parallel.run(0, shape.rows, grain_rows(shape.columns), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t o = begin; o < end; ++o) {
      kernels.effective_row(binary_row(bits, alpha, beta, strides, shape.columns, o),
                            out + o * shape.columns);
    }
  });
}

void effective_weight_bf16(const std::uint8_t* bits, const float* alpha, const float* beta,
                           ScaleStrides strides, MatrixShape shape, std::uint16_t* out,
                           ParallelFor& parallel) {
  check_strides(strides);
  const CpuKernels& kernels = cpu_kernels();
  parallel.run(0, shape.rows, grain_rows(shape.columns), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t o = begin; o < end; ++o) {
      kernels.effective_row_bf16(binary_row(bits, alpha, beta, strides, shape.columns, o),
                                 out + o * shape.columns);
    }
  });
}

std::int64_t count_flips(const std::uint8_t* before, const std::uint8_t* after, MatrixShape shape) {
  return cpu_kernels().differing_bits(before, after, shape.rows * row_bytes(shape.columns));
}

}  // namespace fbi::kernels
