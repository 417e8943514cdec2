#pragma once

#include <cstddef>
#include <cstring>

#include "kernels/cpu/ask_ahead.h"
#include "kernels/cpu/int8_rows.h"
#include "kernels/cpu/vec16_lanes.h"
#include "kernels/gemv_kernels.h"

/// What products with signs share, and the dense half of GemvKernels on sixteen lanes. The file
/// that includes this one has load_half and store_half; in kDenseTokens how many tokens' sums, one
/// chain of additions each, keep its units busy; in kDenseRows of how many rows, four chains each,
/// it has registers for the sums; of the sums of lanes sum_of_one and, of four, store_sums, which
/// both add quarters, then neighbours: the same tree for one as for four; and what int8_rows.h
/// needs.
namespace fbi::kernels {
namespace {

/// Of rows of keys or values, a few lines each, from which little is computed.
inline void ask_for_rows(const std::byte* rows, std::int64_t bytes) {
  for (std::int64_t line = 0; line < bytes; line += 64) ask_ahead<2>(rows + line);
}

struct LoadFp32 {
  static constexpr std::int64_t bytes = 4;
  Floats operator()(const std::byte* w) const { return load(reinterpret_cast<const float*>(w)); }
};
struct LoadFp16 {
  static constexpr std::int64_t bytes = 2;
  Floats operator()(const std::byte* w) const { return load_half(w); }
};

// Rows up to kShortRow are taken four at a time, each with one chain of additions; longer ones with
// four chains, kDenseRows of different parts of the memory at a time.

template <int n, class Load>
inline void add_short_rows(const std::byte* w, std::int64_t row_stride, std::int64_t columns,
                           const float* x, Floats (&sums)[n]) {
  const Load load_weights;
  for (int r = 0; r < n; ++r) sums[r] = splat(0);
  ask_for_rows(w, n * row_stride);
  for (std::int64_t i = 0; i < columns; i += kLanes) {
    const Floats input = load(x + i);
    for (int r = 0; r < n; ++r) {
      sums[r] = fma(load_weights(w + r * row_stride + i * Load::bytes), input, sums[r]);
    }
  }
}

template <class Load>
inline void short_rows(const std::byte* w, std::int64_t row_stride, std::int64_t columns,
                       const float* x, std::int64_t rows, float* y) {
  std::int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    Floats sums[4];
    add_short_rows<4, Load>(w + r * row_stride, row_stride, columns, x, sums);
    store_sums(y + r, sums);
  }
  for (; r < rows; ++r) {
    Floats sums[1];
    add_short_rows<1, Load>(w + r * row_stride, row_stride, columns, x, sums);
    y[r] = sum_of_one(sums[0]);
  }
}

/// n rows that lie `apart` bytes, and whose results lie y_apart values, apart.
template <int n, class Load>
inline void long_rows(const std::byte* w, std::int64_t apart, std::int64_t columns, const float* x,
                      float* y, std::int64_t y_apart) {
  const Load load_weights;
  Floats sums[n][4];
  for (auto& row : sums) {
    for (Floats& sum : row) sum = splat(0);
  }
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= columns; i += 4 * kLanes) {
    for (int k = 0; k < 4; ++k, w += kLanes * Load::bytes) {
      const Floats input = load(x + i + k * kLanes);
      for (int r = 0; r < n; ++r) {
        const std::byte* from = w + r * apart;
        if (k * kLanes * Load::bytes % 64 == 0) ask_ahead<n>(from);
        sums[r][k] = fma(load_weights(from), input, sums[r][k]);
      }
    }
  }
  for (; i < columns; i += kLanes, w += kLanes * Load::bytes) {
#pragma GCC unroll 4
    for (int r = 0; r < n; ++r) {  // else the sums would go through memory
      sums[r][0] = fma(load_weights(w + r * apart), load(x + i), sums[r][0]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < n; ++r) {
    y[r * y_apart] = sum_of_one(add(add(sums[r][0], sums[r][1]), add(sums[r][2], sums[r][3])));
  }
}

template <class Load>
void dense_rows(const std::byte* w, std::int64_t row_stride, std::int64_t columns, const float* x,
                std::int64_t rows, float* y) {
  if (columns <= kShortRow) return short_rows<Load>(w, row_stride, columns, x, rows, y);
  const std::int64_t apart = rows / kDenseRows;
  for (std::int64_t r = 0; r < apart; ++r) {
    long_rows<kDenseRows, Load>(w + r * row_stride, apart * row_stride, columns, x, y + r, apart);
  }
  for (std::int64_t r = kDenseRows * apart; r < rows; ++r) {
    long_rows<1, Load>(w + r * row_stride, 0, columns, x, y + r, 0);
  }
}

/// One chain of additions of long_rows, for kDenseTokens tokens.
template <class Load>
inline const float* add_chain(const std::byte* w, std::int64_t steps, std::int64_t step_bytes,
                              std::int64_t ahead, const float* x, Floats (&sums)[kDenseTokens]) {
  const Load load_weights;
  for (; steps > 0; --steps, w += step_bytes, x += kDenseTokens * kLanes) {
    __builtin_prefetch(w + ahead, 0, 2);
    const Floats weights = load_weights(w);
    for (int t = 0; t < kDenseTokens; ++t) sums[t] = fma(weights, load(x + t * kLanes), sums[t]);
  }
  return x;
}

/// Chain after chain for a few rows at a time, so that a quarter of the inputs stays in the
/// first-level cache meanwhile, and every weight is converted once for all tokens.
template <class Load>
void dense_group(const std::byte* w, std::int64_t row_stride, std::int64_t columns, const float* x,
                 std::int64_t rows, float* y, std::int64_t y_stride) {
  constexpr std::int64_t kRows = 8, kBytes = kLanes * Load::bytes;
  const std::int64_t steps = columns / (kDenseChains * kLanes);
  const std::int64_t rest = columns / kLanes - kDenseChains * steps;
  Floats halves[2][kRows][kDenseTokens];  // chains 0 and 1, 2 and 3
  for (; rows > 0; rows -= kRows, w += kRows * row_stride, y += kRows) {
    const std::int64_t count = rows < kRows ? rows : kRows;
    const float* inputs = x;
    for (int k = 0; k < kDenseChains; ++k) {
      const float* next = inputs;
      for (std::int64_t r = 0; r < count; ++r) {
        const std::byte* row = w + r * row_stride;
        Floats sums[kDenseTokens];
        for (Floats& sum : sums) sum = splat(0);
        next = add_chain<Load>(row + k * kBytes, steps, kDenseChains * kBytes, kRows * row_stride,
                               inputs, sums);
        if (k == 0)
          next = add_chain<Load>(row + kDenseChains * steps * kBytes, rest, kBytes,
                                 kRows * row_stride, next, sums);
        Floats* const half = halves[k / 2][r];
        for (int t = 0; t < kDenseTokens; ++t)
          half[t] = k % 2 == 0 ? sums[t] : add(half[t], sums[t]);
      }
      inputs = next;
    }
    for (std::int64_t r = 0; r < count; ++r) {
      for (int t = 0; t < kDenseTokens; ++t) {
        y[t * y_stride + r] = sum_of_one(add(halves[0][r][t], halves[1][r][t]));
      }
    }
  }
}

float dot(const float* x, const float* y, bool per_element, std::int64_t count) {
  Doubles sum = zero_doubles();
  for_lanes(count, [&](std::int64_t i, auto lanes) {
    const Floats other = per_element ? load(y + i, lanes) : keep(splat(*y), lanes);
    accumulate(sum, widen(mul(load(x + i, lanes), other)));
  });
  return static_cast<float>(sum_of_lanes(sum));
}

/// n times sixteen values of a head, kept in registers over all positions.
template <int n, class Load>
inline void mix_pieces(const float* weights, const std::byte* values, std::int64_t positions,
                       std::int64_t stride, bool add_to_out, float* out) {
  const Load load_values;
  Floats sums[n];
  for (int k = 0; k < n; ++k) sums[k] = add_to_out ? load(out + k * kLanes) : splat(0);
  for (std::int64_t p = 0; p < positions; ++p) {
    const Floats weight = splat(weights[p]);
    const std::byte* from = values + p * stride;
    ask_for_rows(from, n * kLanes * Load::bytes);
    for (int k = 0; k < n; ++k) {
      sums[k] = fma(weight, load_values(from + k * kLanes * Load::bytes), sums[k]);
    }
  }
  for (int k = 0; k < n; ++k) store(out + k * kLanes, sums[k]);
}

template <class Load>
void mix(const float* weights, const std::byte* values, std::int64_t positions,
         std::int64_t head_dim, bool add_to_out, float* out) {
  constexpr std::int64_t kGroup = 4;
  const std::int64_t stride = head_dim * Load::bytes, pieces = head_dim / kLanes;
  std::int64_t k = 0;
  for (; k + kGroup <= pieces; k += kGroup) {
    const std::int64_t first = k * kLanes;
    mix_pieces<kGroup, Load>(weights, values + first * Load::bytes, positions, stride, add_to_out,
                             out + first);
  }
  for (; k < pieces; ++k) {
    const std::int64_t first = k * kLanes;
    mix_pieces<1, Load>(weights, values + first * Load::bytes, positions, stride, add_to_out,
                        out + first);
  }
}

template <class Load>
void score_queries(const float* queries, std::int64_t query_stride, const std::byte* keys,
                   std::int64_t positions, std::int64_t head_dim, float* scores,
                   std::int64_t scores_stride) {
  const std::int64_t key_stride = head_dim * Load::bytes;
  if (head_dim > kShortRow) {
    for (std::int64_t n = 0; n < kTokenGroup; ++n) {
      dense_rows<Load>(keys, key_stride, head_dim, queries + n * query_stride, positions,
                       scores + n * scores_stride);
    }
    return;
  }
  const Load load_key;
  for (std::int64_t p = 0; p < positions; ++p, keys += key_stride) {
    Floats sums[kTokenGroup];
    for (Floats& sum : sums) sum = splat(0);
    for (std::int64_t e = 0; e < head_dim; e += kLanes) {
      const Floats key = load_key(keys + e * Load::bytes);
      for (std::int64_t n = 0; n < kTokenGroup; ++n) {
        sums[n] = fma(key, load(queries + n * query_stride + e), sums[n]);
      }
    }
    float of_query[kTokenGroup];
    store_sums(of_query, sums);
    for (std::int64_t n = 0; n < kTokenGroup; ++n) scores[n * scores_stride + p] = of_query[n];
  }
}

template <class Load>
void mix_queries(const float* weights, std::int64_t weights_stride, const std::byte* values,
                 std::int64_t positions, std::int64_t head_dim, bool add_to_out, float* out,
                 std::int64_t out_stride) {
  const Load load_values;
  for (std::int64_t e = 0; e < head_dim; e += kLanes) {
    Floats sums[kTokenGroup];
    for (std::int64_t n = 0; n < kTokenGroup; ++n) {
      sums[n] = add_to_out ? load(out + n * out_stride + e) : splat(0);
    }
    for (std::int64_t p = 0; p < positions; ++p) {
      const Floats value = load_values(values + (p * head_dim + e) * Load::bytes);
      for (std::int64_t n = 0; n < kTokenGroup; ++n) {
        sums[n] = fma(splat(weights[n * weights_stride + p]), value, sums[n]);
      }
    }
    for (std::int64_t n = 0; n < kTokenGroup; ++n) store(out + n * out_stride + e, sums[n]);
  }
}

void to_half(const float* x, std::int64_t count, std::uint16_t* out) {
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store_half(out + i, load(x + i));
  if (i == count) return;
  std::uint16_t rest[kLanes];
  store_half(rest, load(x + i, static_cast<int>(count - i)));
  std::memcpy(out + i, rest, static_cast<std::size_t>(count - i) * sizeof *out);
}

constexpr GemvKernels vec16_gemv(const SignProduct& exact, const SignProduct& int8) {
  return {.exact = exact,
          .int8 = int8,
          .fp32 = {dense_rows<LoadFp32>, kDenseTokens, dense_group<LoadFp32>},
          .fp16 = {dense_rows<LoadFp16>, kDenseTokens, dense_group<LoadFp16>},
          .int8_rows = {int8_rows, kInt8GroupTokens, int8_rows_of_group},
          .dot = dot,
          .fp32_cache = {mix<LoadFp32>, score_queries<LoadFp32>, mix_queries<LoadFp32>},
          .fp16_cache = {mix<LoadFp16>, score_queries<LoadFp16>, mix_queries<LoadFp16>},
          .to_half = to_half};
}

}  // namespace
}  // namespace fbi::kernels
