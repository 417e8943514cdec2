#include "fbi/kernels/binary_matrix.h"

#include <algorithm>

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

/// Transposes 8 x 8 bits, row r in byte r: exchanges the off-diagonal blocks of 1, 2 and 4.
std::uint64_t transpose_block(std::uint64_t x) {
  const auto exchange = [&](int distance, std::uint64_t mask) {
    const std::uint64_t different = (x ^ (x >> distance)) & mask;
    x ^= different ^ (different << distance);
  };
  exchange(7, 0x00AA00AA00AA00AA);
  exchange(14, 0x0000CCCC0000CCCC);
  exchange(28, 0x00000000F0F0F0F0);
  return x;
}

}  // namespace

void transpose_signs(const std::uint8_t* bits, MatrixShape shape, std::uint8_t* out,
                     ParallelFor& parallel) {
  const std::int64_t from = row_bytes(shape.columns), to = row_bytes(shape.rows);
  parallel.run(0, from, grain_rows(8 * shape.rows), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t o = 0; o < shape.rows; o += 8) {
      const std::int64_t rows = std::min<std::int64_t>(8, shape.rows - o);
      for (std::int64_t byte = begin; byte < end; ++byte) {
        std::uint64_t block = 0;
        for (std::int64_t r = 0; r < rows; ++r) {
          block |= std::uint64_t{bits[(o + r) * from + byte]} << (8 * r);
        }
        block = transpose_block(block);
        const std::int64_t columns = std::min<std::int64_t>(8, shape.columns - 8 * byte);
        for (std::int64_t c = 0; c < columns; ++c) {
          out[(8 * byte + c) * to + o / 8] = static_cast<std::uint8_t>(block >> (8 * c));
        }
      }
    }
  });
}

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

}  // namespace fbi::kernels
