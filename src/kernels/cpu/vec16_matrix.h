#pragma once

#include "kernels/cpu/vec16_lanes.h"

/// Binarized matrices and AdamW: bit-equal to the reference, whose order of operations these
/// follow.
namespace fbi::kernels {
namespace {

void pack_row(const float* latent, std::int64_t columns, std::uint8_t* bits) {
  for_lanes(columns, [&](std::int64_t i, auto lanes) {
    store_bits(bits, i, nonnegative(load(latent + i, lanes)), lanes);
  });
}

template <bool per_column, class Lanes>
inline Floats effective(const BinaryRow& row, std::int64_t i, Lanes lanes) {
  const Floats alpha = load_scale<per_column>(row.alpha, i, lanes);
  const Floats beta = load_scale<per_column>(row.beta, i, lanes);
  return add(with_signs(alpha, load_bits(row.bits, i, lanes)), beta);
}

template <bool per_column>
void effective_row_of(const BinaryRow& row, float* out) {
  for_lanes(row.columns, [&](std::int64_t i, auto lanes) {
    store(out + i, effective<per_column>(row, i, lanes), lanes);
  });
}

void effective_row(const BinaryRow& row, float* out) {
  row.per_column ? effective_row_of<true>(row, out) : effective_row_of<false>(row, out);
}

template <bool per_column>
void effective_row_bf16_of(const BinaryRow& row, std::uint16_t* out) {
  for_lanes(row.columns, [&](std::int64_t i, auto lanes) {
    store_bfloat16(out + i, effective<per_column>(row, i, lanes), lanes);
  });
}

void effective_row_bf16(const BinaryRow& row, std::uint16_t* out) {
  row.per_column ? effective_row_bf16_of<true>(row, out) : effective_row_bf16_of<false>(row, out);
}

struct AdamW {
  explicit AdamW(const AdamWConstants& c)
      : decay(splat(c.decay)),
        one_minus_beta1(splat(c.one_minus_beta1)),
        beta2(splat(c.beta2)),
        one_minus_beta2(splat(c.one_minus_beta2)),
        negative_step_size(splat(c.negative_step_size)),
        sqrt_bias_correction2(splat(c.sqrt_bias_correction2)),
        eps(splat(c.eps)),
        grad_scale(splat(c.grad_scale)) {}

  /// Updates sixteen elements and returns their new values.
  template <class Lanes>
  Floats update(Floats value, float* moment1, float* moment2, Floats grad, Lanes lanes) const {
    const Floats g = mul(grad, grad_scale);
    Floats m = load(moment1, lanes);
    m = fma(one_minus_beta1, sub(g, m), m);
    const Floats v = fma(mul(one_minus_beta2, g), g, mul(beta2, load(moment2, lanes)));
    store(moment1, m, lanes);
    store(moment2, v, lanes);
    const Floats denominator = add(div(sqrt(v), sqrt_bias_correction2), eps);
    return add(mul(value, decay), div(mul(negative_step_size, m), denominator));
  }

  Floats decay, one_minus_beta1, beta2, one_minus_beta2, negative_step_size, sqrt_bias_correction2,
      eps, grad_scale;
};

void adamw(float* value, float* moment1, float* moment2, const float* grad, std::int64_t count,
           const AdamWConstants& constants) {
  const AdamW rule(constants);
  for_lanes(count, [&](std::int64_t i, auto lanes) {
    const Floats next =
        rule.update(load(value + i, lanes), moment1 + i, moment2 + i, load(grad + i, lanes), lanes);
    store(value + i, next, lanes);
  });
}

template <bool per_column>
std::int64_t adamw_latent_row_of(const LatentRow& row, const AdamWConstants& constants) {
  const AdamW rule(constants);
  std::int64_t flips = 0;
  for_lanes(row.columns, [&](std::int64_t i, auto lanes) {
    const Floats before = load(row.latent + i, lanes);
    const Floats grad =
        mul(load_scale<per_column>(row.alpha, i, lanes), load(row.raw_grad + i, lanes));
    const Floats after = rule.update(before, row.moment1 + i, row.moment2 + i, grad, lanes);
    store(row.latent + i, after, lanes);
    const std::uint32_t bits = nonnegative(after);
    store_bits(row.bits, i, bits, lanes);
    flips += __builtin_popcount((bits ^ nonnegative(before)) & ((1u << lanes.n) - 1));
  });
  return flips;
}

std::int64_t adamw_latent_row(const LatentRow& row, const AdamWConstants& constants) {
  return row.per_column ? adamw_latent_row_of<true>(row, constants)
                        : adamw_latent_row_of<false>(row, constants);
}

double sum_of_squares(const float* x, std::int64_t count) {
  Doubles sum = zero_doubles();
  for_lanes(count,
            [&](std::int64_t i, auto lanes) { accumulate_square(sum, widen(load(x + i, lanes))); });
  return sum_of_lanes(sum);
}

struct GradientLanes {
  Doubles positive, sum, squares;

  void add(Floats raw_grad, std::uint32_t bits) {
    const Doubles g = widen(raw_grad);
    add_where(positive, bits, raw_grad, g);
    accumulate(sum, g);
    accumulate_square(squares, g);
  }
};

GradientSums gradient_row_sums(const float* raw_grad, const std::uint8_t* bits,
                               std::int64_t columns) {
  GradientLanes sums = {zero_doubles(), zero_doubles(), zero_doubles()};
  for_lanes(columns, [&](std::int64_t i, auto lanes) {
    sums.add(load(raw_grad + i, lanes), load_bits(bits, i, lanes));
  });
  return {sum_of_lanes(sums.positive), sum_of_lanes(sums.sum), sum_of_lanes(sums.squares)};
}

/// Rows per visit of a column group: so many streams a prefetcher follows, and so many rows share
/// one read and write of the sums.
constexpr std::int64_t kRowsPerVisit = 8;

/// Adds rows [row, row + rows) of columns [i, i + n) to three arrays of sixteen sums.
template <class Lanes>
void add_columns(const GradientBlock& block, std::int64_t row, std::int64_t rows, std::int64_t i,
                 Lanes lanes, double* positive, double* sum, double* squares) {
  GradientLanes sums = {load(positive), load(sum), load(squares)};
  for (std::int64_t o = row; o < row + rows; ++o) {
    const std::uint8_t* bits = block.bits + o * ((block.columns + 7) / 8);
    sums.add(load(block.raw_grad + o * block.columns + i, lanes), load_bits(bits, i, lanes));
  }
  store(positive, sums.positive);
  store(sum, sums.sum);
  store(squares, sums.squares);
}

void gradient_column_sums(const GradientBlock& block, double* sums) {
  const std::int64_t columns = block.columns, full = columns / kLanes * kLanes;
  double tail[3][kLanes] = {};
  const Part part = {static_cast<int>(columns - full)};
  for (int k = 0; k < 3; ++k) {
    for (int j = 0; j < part.n; ++j) tail[k][j] = sums[k * columns + full + j];
  }
  for (std::int64_t o = 0; o < block.rows; o += kRowsPerVisit) {
    const std::int64_t rows = o + kRowsPerVisit < block.rows ? kRowsPerVisit : block.rows - o;
    for (std::int64_t i = 0; i < full; i += kLanes) {
      add_columns(block, o, rows, i, Full{}, sums + i, sums + columns + i, sums + 2 * columns + i);
    }
    if (part.n) add_columns(block, o, rows, full, part, tail[0], tail[1], tail[2]);
  }
  for (int k = 0; k < 3; ++k) {
    for (int j = 0; j < part.n; ++j) sums[k * columns + full + j] = tail[k][j];
  }
}

}  // namespace
}  // namespace fbi::kernels
