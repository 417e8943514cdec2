#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/gemv_kernels.h"
#include "kernels/half.h"

/// Look-up tables without any instruction set: for processors that have no level of their own.
namespace fbi::kernels {
namespace {

constexpr int kGroup = 5, kEntries = 1 << kGroup;

/// Entry c of the table: input b enters with the sign of bit b of c.
template <class Value, class Input>
void group_table(const Input* x, Value* table) {
  table[0] = 0;
  for (int b = 0; b < kGroup; ++b) {
    const auto input = static_cast<Value>(x[b]);
    for (int c = 0; c < 1 << b; ++c) {
      table[c + (1 << b)] = static_cast<Value>(table[c] + input);
      table[c] = static_cast<Value>(table[c] - input);
    }
  }
}

// ---- exact

constexpr int kExactGroups = kExactUnit / kGroup;
constexpr std::int64_t kExactTable = kExactGroups * kEntries * sizeof(float);

void exact_tables(const float* x, const float* scale, bool per_column, std::int64_t count,
                  std::int64_t units, std::byte* table) {
  for (std::int64_t unit = 0; unit < units; ++unit) {
    float inputs[kExactUnit] = {};
    for (std::int64_t i = 0; i < kExactUnit && unit * kExactUnit + i < count; ++i) {
      const std::int64_t at = unit * kExactUnit + i;
      inputs[i] = x[at] * scale[per_column ? at : 0];
    }
    auto* out = reinterpret_cast<float*>(table + unit * kExactTable);
    for (int g = 0; g < kExactGroups; ++g) group_table(inputs + kGroup * g, out + kEntries * g);
  }
}

void exact_chunk(const std::byte* const* block_words, std::int64_t, std::int64_t,
                 const std::byte* table, std::int64_t count, float* sums) {
  const std::byte* words = *block_words;  // streams: 1
  float partial[kBlockRows] = {};
  for (; count > 0; count -= kExactUnit) {
    const auto* t = reinterpret_cast<const float*>(table);
    for (std::int64_t r = 0; r < kBlockRows; ++r) {
      std::uint32_t signs;
      std::memcpy(&signs, words + r * sizeof signs, sizeof signs);
      const auto entry = [&](int g) { return t[kEntries * g + (signs >> (kGroup * g) & 31)]; };
      partial[r] += (entry(0) + entry(1)) + (entry(2) + entry(3)) + (entry(4) + entry(5));
    }
    words += 4 * kBlockRows;
    table += kExactTable;
  }
  for (std::int64_t r = 0; r < kBlockRows; ++r) sums[r] += partial[r];
}

// ---- int8

constexpr std::int64_t kInt8Word = 15;
constexpr int kInt8Groups = kInt8Unit / kGroup;
constexpr std::int64_t kInt8Table = kInt8Groups * kEntries * sizeof(std::int16_t) + 64;

void int8_tables(const float* x, const float* scale, bool per_column, std::int64_t count,
                 std::int64_t units, std::byte* table) {
  for (std::int64_t unit = 0; unit < units; ++unit) {
    const std::int64_t first = unit * kInt8Unit;
    std::int8_t q[kInt8Unit] = {};
    std::byte* out = table + unit * kInt8Table;
    const float factor = ref::quantize(x + first, scale + (per_column ? first : 0), per_column,
                                       count - first < kInt8Unit ? count - first : kInt8Unit, q);
    std::memcpy(out, &factor, sizeof factor);
    auto* groups = reinterpret_cast<std::int16_t*>(out + 64);
    for (int g = 0; g < kInt8Groups; ++g) group_table(q + kGroup * g, groups + kEntries * g);
  }
}

void int8_chunk(const std::byte* const* block_words, std::int64_t, std::int64_t,
                const std::byte* table, std::int64_t count, float* sums) {
  const std::byte* words = *block_words;  // streams: 1
  for (; count > 0; count -= kInt8Unit) {
    std::int32_t whole[kInt8BlockRows] = {};
    const auto* t = reinterpret_cast<const std::int16_t*>(table + 64);
    const std::int64_t inputs = count < kInt8Unit ? count : kInt8Unit;
    for (std::int64_t first = 0; first < inputs; first += kInt8Word) {
      for (std::int64_t r = 0; r < kInt8BlockRows; ++r) {
        std::uint16_t signs;
        std::memcpy(&signs, words + r * sizeof signs, sizeof signs);
        whole[r] +=
            t[signs & 31] + t[kEntries + (signs >> 5 & 31)] + t[2 * kEntries + (signs >> 10 & 31)];
      }
      words += 2 * kInt8BlockRows;
      t += 3 * kEntries;
    }
    float factor;
    std::memcpy(&factor, table, sizeof factor);
    for (std::int64_t r = 0; r < kInt8BlockRows; ++r) {
      sums[r] = std::fma(factor, static_cast<float>(whole[r]), sums[r]);
    }
    table += kInt8Table;
  }
}

// ---- dense: sixteen chains of additions, which a compiler makes vectors of

template <class Value, class Convert>
void dense_rows(const std::byte* w, std::int64_t row_stride, std::int64_t columns, const float* x,
                std::int64_t rows, float* y, Convert to_float) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto* row = reinterpret_cast<const Value*>(w + r * row_stride);
    float lanes[kPadding] = {};
    for (std::int64_t i = 0; i < columns; i += kPadding) {
      for (std::int64_t k = 0; k < kPadding; ++k) lanes[k] += to_float(row[i + k]) * x[i + k];
    }
    for (std::int64_t width = kPadding / 2; width > 0; width /= 2) {
      for (std::int64_t k = 0; k < width; ++k) lanes[k] += lanes[k + width];
    }
    y[r] = lanes[0];
  }
}

template <class Value, class Convert>
void mix(const float* weights, const std::byte* values, std::int64_t positions,
         std::int64_t head_dim, bool add_to_out, float* out, Convert to_float) {
  const auto* from = reinterpret_cast<const Value*>(values);
  if (!add_to_out) std::fill_n(out, head_dim, 0.0f);
  for (std::int64_t p = 0; p < positions; ++p) {
    for (std::int64_t e = 0; e < head_dim; ++e) {
      out[e] += weights[p] * to_float(from[p * head_dim + e]);
    }
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
    for (std::int64_t first = 0; first < columns; first += kInt8Columns) {
      std::int32_t lanes[kPadding] = {};
      for (std::int64_t i = first; i < std::min(columns, first + kInt8Columns); i += kPadding) {
        for (std::int64_t k = 0; k < kPadding; ++k) lanes[k] += row[i + k] * q[i + k];
      }
      for (const std::int32_t lane : lanes) sum += lane;
    }
    y[r] = static_cast<float>(sum);
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

constinit const GemvKernels kPortableGemv = {
    .exact = {kBlockRows, kExactUnit, kExactUnit, 4 * kBlockRows, kExactTable, 32, 8,
              repack_words32, exact_tables, exact_chunk},
    .int8 = {kInt8BlockRows, kInt8Unit, kInt8Word, 2 * kInt8BlockRows, kInt8Table, 8, 8,
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
