#pragma once

#include <cstdint>

#include "fbi/core/parallel.h"

/// Kernels over a binarized matrix W~[o,i] = alpha·s[o,i] + beta, weight [rows, columns] = [O, I].
/// Raw pointers, row-major, no LibTorch. Every level of the dispatch table (dispatch.h) and every
/// number of threads gives the same bits; strides that are none of the three patterns are a
/// UsageError. Signs are packed by rows: row_bytes(columns) bytes a row, least significant bit
/// first, 1 = +1 (latent >= 0), pad bits 0.
namespace fbi::kernels {

/// Strides with which alpha and beta broadcast over [O, I]: element (o, i) uses alpha[o * row + i *
/// column].
struct ScaleStrides {
  std::int64_t row = 0;
  std::int64_t column = 1;
  static constexpr ScaleStrides per_column() { return {0, 1}; }
  static constexpr ScaleStrides per_row() { return {1, 0}; }
  static constexpr ScaleStrides single() { return {0, 0}; }
  /// Of an enum with kColumn, kRow and kSingle: config::Binarize, unless it is none, or
  /// ops::ScalePattern.
  template <class Pattern>
  static constexpr ScaleStrides of(Pattern pattern) {
    if (pattern == Pattern::kColumn) return per_column();
    return pattern == Pattern::kRow ? per_row() : single();
  }
  /// Number of alpha (and beta) values for a [rows, columns] matrix.
  constexpr std::int64_t count(std::int64_t rows, std::int64_t columns) const {
    return row ? rows : column ? columns : 1;
  }
};

constexpr std::int64_t row_bytes(std::int64_t columns) {
  return (columns + 7) / 8;
}

struct MatrixShape {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};

/// bits [rows, row_bytes] from latent [rows, columns] fp32.
void pack_signs(const float* latent, MatrixShape shape, std::uint8_t* bits, ParallelFor& parallel);

/// out [columns, row_bytes(rows)]: the signs of the transposed matrix.
void transpose_signs(const std::uint8_t* bits, MatrixShape shape, std::uint8_t* out,
                     ParallelFor& parallel);

/// out[o,i] = alpha·s + beta formed in fp32 (one rounding of alpha·s, one of the sum; s = ±1 makes
/// the first exact).
void effective_weight(const std::uint8_t* bits, const float* alpha, const float* beta,
                      ScaleStrides strides, MatrixShape shape, float* out, ParallelFor& parallel);
/// The same, rounded to bfloat16 (nearest even, NaN to 0x7FC0): the canonical form of bf16
/// training.
void effective_weight_bf16(const std::uint8_t* bits, const float* alpha, const float* beta,
                           ScaleStrides strides, MatrixShape shape, std::uint16_t* out,
                           ParallelFor& parallel);

/// Initial scales of the published method: beta = mean of latent, alpha = mean of |latent - beta|,
/// over the broadcast dimensions, accumulated in double in row order (bit-equal for any thread
/// count).
void initial_scales(const float* latent, ScaleStrides strides, MatrixShape shape, float* alpha,
                    float* beta, ParallelFor& parallel);

/// Once per optimizer step, from the raw gradient G [rows, columns] = dL/dW~ (numerics:
/// straight-through estimator): dalpha = Σ s·G and dbeta = Σ G over the broadcast dimensions
/// (double accumulation in fixed order); returns Σ (alpha·G)², the squared norm of the latent
/// gradient, likewise deterministic for any thread count.
double scale_gradients(const float* raw_grad, const std::uint8_t* bits, const float* alpha,
                       ScaleStrides strides, MatrixShape shape, float* dalpha, float* dbeta,
                       ParallelFor& parallel);

}  // namespace fbi::kernels
