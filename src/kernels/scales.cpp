#include <cmath>
#include <numeric>

#include "fbi/kernels/binary_matrix.h"
#include "kernels/blocks.h"
#include "kernels/dispatch.h"

namespace fbi::kernels {
namespace {

/// Sum per scale of value(element, row, column), in row order: by columns, by rows, or all.
template <class Value>
std::vector<double> scale_sums(const float* x, ScaleStrides strides, MatrixShape shape,
                               ParallelFor& parallel, const Value& value) {
  const std::int64_t columns = shape.columns;
  if (strides.column) {
    return sum_row_blocks(shape.rows, columns, parallel,
                          [&](std::int64_t begin, std::int64_t end, double* sums) {
                            for (std::int64_t o = begin; o < end; ++o) {
                              const float* row = x + o * columns;
                              for (std::int64_t i = 0; i < columns; ++i)
                                sums[i] += value(row[i], i);
                            }
                          });
  }
  std::vector<double> sums(static_cast<std::size_t>(shape.rows));
  parallel.run(0, shape.rows, grain_rows(columns), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t o = begin; o < end; ++o) {
      const float* row = x + o * columns;
      for (std::int64_t i = 0; i < columns; ++i) sums[o] += value(row[i], o * strides.row);
    }
  });
  if (!strides.row) sums = {std::accumulate(sums.begin(), sums.end(), 0.0)};
  return sums;
}

/// Σ (alpha·G)² of one scale's elements; stores the scale's two gradients.
double finish(const GradientSums& sums, float alpha, float& dalpha, float& dbeta) {
  dalpha = static_cast<float>(2 * sums.positive - sums.sum);
  dbeta = static_cast<float>(sums.sum);
  return double{alpha} * alpha * sums.squares;
}

double column_gradients(const GradientBlock& matrix, const float* alpha, float* dalpha,
                        float* dbeta, ParallelFor& parallel) {
  const std::int64_t columns = matrix.columns;
  const CpuKernels& kernels = cpu_kernels();
  const std::vector<double> sums = sum_row_blocks(
      matrix.rows, 3 * columns, parallel, [&](std::int64_t begin, std::int64_t end, double* out) {
        const GradientBlock block = {.raw_grad = matrix.raw_grad + begin * columns,
                                     .bits = matrix.bits + begin * row_bytes(columns),
                                     .rows = end - begin,
                                     .columns = columns};
        kernels.gradient_column_sums(block, out);
      });
  double squares = 0;
  for (std::int64_t i = 0; i < columns; ++i) {
    squares +=
        finish({sums[i], sums[columns + i], sums[2 * columns + i]}, alpha[i], dalpha[i], dbeta[i]);
  }
  return squares;
}

std::vector<GradientSums> row_sums(const GradientBlock& matrix, ParallelFor& parallel) {
  const std::int64_t columns = matrix.columns;
  const CpuKernels& kernels = cpu_kernels();
  std::vector<GradientSums> sums(static_cast<std::size_t>(matrix.rows));
  parallel.run(0, matrix.rows, grain_rows(columns), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t o = begin; o < end; ++o) {
      sums[o] = kernels.gradient_row_sums(matrix.raw_grad + o * columns,
                                          matrix.bits + o * row_bytes(columns), columns);
    }
  });
  return sums;
}

GradientSums add(const GradientSums& a, const GradientSums& b) {
  return {a.positive + b.positive, a.sum + b.sum, a.squares + b.squares};
}

}  // namespace

void initial_scales(const float* latent, ScaleStrides strides, MatrixShape shape, float* alpha,
                    float* beta, ParallelFor& parallel) {
  check_strides(strides);
  const std::int64_t count = strides.count(shape.rows, shape.columns);
  const double terms = static_cast<double>(shape.rows * shape.columns) / static_cast<double>(count);
  const auto store_means = [&](const std::vector<double>& sums, float* out) {
    for (std::int64_t k = 0; k < count; ++k) out[k] = static_cast<float>(sums[k] / terms);
  };
  store_means(scale_sums(latent, strides, shape, parallel, [](float w, std::int64_t) { return w; }),
              beta);
  store_means(scale_sums(latent, strides, shape, parallel,
                         [&](float w, std::int64_t k) { return std::abs(w - beta[k]); }),
              alpha);
}

double scale_gradients(const float* raw_grad, const std::uint8_t* bits, const float* alpha,
                       ScaleStrides strides, MatrixShape shape, float* dalpha, float* dbeta,
                       ParallelFor& parallel) {
  check_strides(strides);
  const GradientBlock matrix = {raw_grad, bits, shape.rows, shape.columns};
  if (strides.column) return column_gradients(matrix, alpha, dalpha, dbeta, parallel);
  const std::vector<GradientSums> rows = row_sums(matrix, parallel);
  if (!strides.row) {
    const GradientSums all = std::accumulate(rows.begin(), rows.end(), GradientSums{}, add);
    return finish(all, *alpha, *dalpha, *dbeta);
  }
  double squares = 0;
  for (std::int64_t o = 0; o < shape.rows; ++o) {
    squares += finish(rows[o], alpha[o], dalpha[o], dbeta[o]);
  }
  return squares;
}

}  // namespace fbi::kernels
