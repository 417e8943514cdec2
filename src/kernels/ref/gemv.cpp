#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/gemv_kernels.h"
#include "kernels/half.h"

/// Plain loops. Sums of fp32 products are in double, so that the other levels are judged by their
/// own rounding; integer sums are exact at every level.
namespace fbi::kernels {
namespace {

// ---- exact: the table is x·scale itself

struct ExactUnit {
  float x[kExactUnit];
  float unused[2];
};
static_assert(sizeof(ExactUnit) == 128);

float scaled(const float* x, const float* scale, bool per_column, std::int64_t i) {
  return x[i] * scale[per_column ? i : 0];
}

void exact_tables(const float* x, const float* scale, bool per_column, std::int64_t count,
                  std::int64_t units, std::byte* table) {
  for (std::int64_t unit = 0; unit < units; ++unit) {
    ExactUnit part = {};
    const std::int64_t first = unit * kExactUnit;
    for (std::int64_t i = 0; i < std::min(kExactUnit, count - first); ++i) {
      part.x[i] = scaled(x, scale, per_column, first + i);
    }
    std::memcpy(table + unit * sizeof part, &part, sizeof part);
  }
}

void exact_chunk(const std::byte* const* block_words, std::int64_t, std::int64_t,
                 const std::byte* table, std::int64_t count, float* sums) {
  const std::byte* words = *block_words;  // streams: 1
  const std::int64_t units = (count + kExactUnit - 1) / kExactUnit;
  for (std::int64_t r = 0; r < kBlockRows; ++r) {
    double sum = 0;
    for (std::int64_t unit = 0; unit < units; ++unit) {
      std::uint32_t word;
      std::memcpy(&word, words + (unit * kBlockRows + r) * sizeof word, sizeof word);
      ExactUnit part;
      std::memcpy(&part, table + unit * sizeof part, sizeof part);
      for (std::int64_t i = 0; i < kExactUnit; ++i) {
        sum += word >> i & 1 ? double{part.x[i]} : -double{part.x[i]};
      }
    }
    sums[r] += static_cast<float>(sum);
  }
}

// ---- int8: the table is the scale and the rounded inputs

constexpr std::int64_t kInt8Word = 15;

struct Int8Unit {
  float scale;
  std::int8_t q[kInt8Unit];
  std::int8_t unused[61];
};
static_assert(sizeof(Int8Unit) == 320);

void int8_tables(const float* x, const float* scale, bool per_column, std::int64_t count,
                 std::int64_t units, std::byte* table) {
  for (std::int64_t unit = 0; unit < units; ++unit) {
    const std::int64_t first = unit * kInt8Unit;
    Int8Unit part = {};
    part.scale = ref::quantize(x + first, scale + (per_column ? first : 0), per_column,
                               std::min(kInt8Unit, count - first), part.q);
    std::memcpy(table + unit * sizeof part, &part, sizeof part);
  }
}

/// Of one row and unit.
int whole_sum(const std::byte* words, const Int8Unit& part, std::int64_t inputs, std::int64_t row) {
  int whole = 0;
  for (std::int64_t i = 0; i < inputs; ++i) {
    std::uint16_t word;
    const std::int64_t w = i / kInt8Word * kInt8BlockRows + row;
    std::memcpy(&word, words + w * sizeof word, sizeof word);
    whole += word >> (i % kInt8Word) & 1 ? part.q[i] : -part.q[i];
  }
  return whole;
}

void int8_chunk(const std::byte* const* block_words, std::int64_t, std::int64_t,
                const std::byte* table, std::int64_t count, float* sums) {
  const std::byte* words = *block_words;  // streams: 1
  for (; count > 0; count -= kInt8Unit) {
    Int8Unit part;
    std::memcpy(&part, table, sizeof part);
    const std::int64_t inputs = std::min(kInt8Unit, count);
    for (std::int64_t r = 0; r < kInt8BlockRows; ++r) {
      sums[r] =
          std::fma(part.scale, static_cast<float>(whole_sum(words, part, inputs, r)), sums[r]);
    }
    words += (inputs + kInt8Word - 1) / kInt8Word * 2 * kInt8BlockRows;
    table += sizeof part;
  }
}

// ---- dense

template <class Value, class Convert>
void dense_rows(const std::byte* w, std::int64_t row_stride, std::int64_t columns, const float* x,
                std::int64_t rows, float* y, Convert to_float) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto* row = reinterpret_cast<const Value*>(w + r * row_stride);
    double sum = 0;
    for (std::int64_t i = 0; i < columns; ++i) sum += double{to_float(row[i])} * x[i];
    y[r] = static_cast<float>(sum);
  }
}

float as_is(float value) {
  return value;
}

void rows_fp32(const std::byte* w, std::int64_t row_stride, std::int64_t columns, const float* x,
               std::int64_t rows, float* y) {
  dense_rows<float>(w, row_stride, columns, x, rows, y, as_is);
}
void rows_fp16(const std::byte* w, std::int64_t row_stride, std::int64_t columns, const float* x,
               std::int64_t rows, float* y) {
  dense_rows<std::uint16_t>(w, row_stride, columns, x, rows, y, half_to_float);
}
void rows_int8(const std::byte* w, std::int64_t row_stride, std::int64_t columns,
               const std::int16_t* q, std::int64_t rows, float* y) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto* row = reinterpret_cast<const std::int8_t*>(w + r * row_stride);
    std::int64_t sum = 0;
    for (std::int64_t i = 0; i < columns; ++i) sum += std::int64_t{row[i]} * q[i];
    y[r] = static_cast<float>(sum);
  }
}

// ---- the rest of a decode step

template <class Value, class Convert>
void mix(const float* weights, const std::byte* values, std::int64_t positions,
         std::int64_t head_dim, bool add_to_out, float* out, Convert to_float) {
  const auto* from = reinterpret_cast<const Value*>(values);
  for (std::int64_t e = 0; e < head_dim; ++e) {
    double sum = add_to_out ? out[e] : 0;
    for (std::int64_t p = 0; p < positions; ++p) {
      sum += double{weights[p]} * to_float(from[p * head_dim + e]);
    }
    out[e] = static_cast<float>(sum);
  }
}

void mix_fp32(const float* weights, const std::byte* values, std::int64_t positions,
              std::int64_t head_dim, bool add_to_out, float* out) {
  mix<float>(weights, values, positions, head_dim, add_to_out, out, as_is);
}
void mix_fp16(const float* weights, const std::byte* values, std::int64_t positions,
              std::int64_t head_dim, bool add_to_out, float* out) {
  mix<std::uint16_t>(weights, values, positions, head_dim, add_to_out, out, half_to_float);
}

}  // namespace

namespace ref {

void to_half(const float* x, std::int64_t count, std::uint16_t* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = float_to_half(x[i]);
}

float dot(const float* x, const float* y, bool per_element, std::int64_t count) {
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += double{x[i]} * y[per_element ? i : 0];
  return static_cast<float>(sum);
}

float quantize(const float* x, const float* scale, bool per_column, std::int64_t count,
               std::int8_t* q) {
  float largest = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    largest = std::max(largest, std::abs(scaled(x, scale, per_column, i)));
  }
  if (!(largest > 0)) return 0;
  const float inverse = 127 / largest;
  for (std::int64_t i = 0; i < count; ++i) {
    q[i] = static_cast<std::int8_t>(std::lrint(scaled(x, scale, per_column, i) * inverse));
  }
  return largest / 127;
}

}  // namespace ref

constinit const GemvKernels kRefGemv = {
    .exact = {kBlockRows, kExactUnit, kExactUnit, 4 * kBlockRows, sizeof(ExactUnit), 32, 8,
              repack_words32, exact_tables, exact_chunk},
    .int8 = {kInt8BlockRows, kInt8Unit, kInt8Word, 2 * kInt8BlockRows, sizeof(Int8Unit), 8, 8,
             repack_words16, int8_tables, int8_chunk},
    .fp32 = {rows_fp32},
    .fp16 = {rows_fp16},
    .int8_rows = {rows_int8},
    .dot = ref::dot,
    .fp32_cache = {mix_fp32},
    .fp16_cache = {mix_fp16},
    .to_half = ref::to_half,
};

}  // namespace fbi::kernels
