#pragma once

#include <bit>

#include "kernels/cpu/unrolled.h"
#include "kernels/cpu/vec16_whole.h"

/// Products with signs of many tokens, which lie side by side in the lanes of a table's entries: a
/// look-up is no instruction of its own then but the address that an addition reads from. Per five
/// inputs a table holds the 32 sums of ±q, a cache line each; the thirteen tables of 64 inputs
/// leave the first-level cache some KB for the sums that pass through it. Inputs become the whole
/// numbers of vec16_whole.h, so results have the bits that they have token by token. The file that
/// includes this one has row_signs, which makes words of kVectorRows rows of what steps have of
/// them, and for each of the Numbers a Line of a token's sums each.
namespace fbi::kernels {
namespace {

constexpr std::int64_t kLineBytes = 64;
constexpr int kTableInputs = 5, kTableEntries = 1 << kTableInputs;
constexpr int kPassInputs = 64, kPassSteps = kPassInputs / kStep;
constexpr int kPassTables = (kPassInputs + kTableInputs - 1) / kTableInputs;
constexpr int kLastTableInputs = kPassInputs - (kPassTables - 1) * kTableInputs;

template <class Line>
inline Line read_line(const std::byte* from) {
  Line line;
  line.read(from);
  return line;
}

/// Entry c: input b enters with the sign of bit b of c.
template <int inputs, class Line>
inline void fill_table(const Line* x, std::byte* table) {
  Line all = x[0];
  for (int b = 1; b < inputs; ++b) all = all + x[b];
  (all - all - all).store(table);
  for (int b = 0; b < inputs; ++b) {
    for (int c = 0; c < 1 << b; ++c) {
      Line sum = x[b] + x[b];
      sum = sum + read_line<Line>(table + c * kLineBytes);
      sum.store(table + (c | 1 << b) * kLineBytes);
    }
  }
}

/// Products of up to Lines::kTokens tokens with some blocks of rows.
template <class Product>
class LaneProducts {
 public:
  using Line = typename Product::Line;
  static constexpr int kTokens = Line::kTokens;

  /// Token t's numbers, as lane_inputs left them, lie t·stride behind the first one's.
  LaneProducts(const std::byte* numbers, std::int64_t stride, std::int64_t tokens) {
    for (int t = 0; t < kTokens; ++t) numbers_[t] = t < tokens ? numbers + t * stride : nullptr;
  }

  /// sums [blocks][kInt8BlockRows][kTokens] += a chunk of `count` inputs; words of each block.
  void add_chunk(const std::byte* const* words, std::int64_t blocks, std::int64_t count,
                 float* sums) {
    std::int64_t place = 0;
    for (; count > 0; count -= Product::kInputs) {
      const std::int64_t inputs = count < Product::kInputs ? count : Product::kInputs;
      const std::int64_t unit_words = words_of<Product>(inputs);
      add_unit(words, place, blocks, unit_words * kPlanes.steps, sums);
      place += unit_words * kPlanes.word_bytes();
      for (const std::byte*& numbers : numbers_) {
        if (numbers) numbers += kPlanes.table_bytes();
      }
    }
  }

 private:
  static constexpr Planes kPlanes = Product::planes;

  void add_unit(const std::byte* const* words, std::int64_t place, std::int64_t blocks,
                std::int64_t steps, float* sums) {
    for (int t = 0; t < kTokens; ++t) {
      factors_[t] = 0;
      if (numbers_[t]) std::memcpy(&factors_[t], numbers_[t], sizeof factors_[t]);
    }
    for (std::int64_t first = 0; first < steps; first += kPassSteps) {
      fill_tables(first * kStep);
      const bool last = first + kPassSteps >= steps;
      const auto take = first > 0 ? last ? &LaneProducts::take_block<false, true>
                                         : &LaneProducts::take_block<false, false>
                        : last ? &LaneProducts::take_block<true, true>
                                  : &LaneProducts::take_block<true, false>;
      for (std::int64_t k = 0; k < blocks; ++k) {
        (this->*take)(words[k] + place, steps, first, whole_[k],
                      sums + k * kInt8BlockRows * kTokens);
      }
    }
  }

  void fill_tables(std::int64_t first) {
    static constexpr std::int32_t kNone[kWholeInputs] = {};
    const std::int32_t* q[kTokens];
    for (int t = 0; t < kTokens; ++t) {
      const std::byte* numbers = numbers_[t];
      q[t] =
          first + (numbers ? reinterpret_cast<const std::int32_t*>(numbers + kUnitHeader) : kNone);
    }
    Line x[kPassInputs];
    for (int i = 0; i < kPassInputs; i += 8) side_by_side(q, i, x + i);
    for (int t = 0; t + 1 < kPassTables; ++t) {
      fill_table<kTableInputs>(x + t * kTableInputs, tables_[t][0]);
    }
    fill_table<kLastTableInputs>(x + kPassInputs - kLastTableInputs, tables_[kPassTables - 1][0]);
  }

  /// whole[r] += the inputs of the steps from `first` on, or = those at the beginning of a unit; at
  /// its end sums[r] += the scaled whole.
  template <bool begin, bool end>
  void take_block(const std::byte* signs, std::int64_t steps, std::int64_t first,
                  std::byte (*whole)[kLineBytes], float* sums) const {
    constexpr std::int64_t kRows = kPlanes.rows();
    for (std::int64_t row = 0; row < kInt8BlockRows; row += kVectorRows) {
      alignas(64) std::uint64_t words[kVectorRows];
      row_signs(signs + row / kRows * kRows * steps + row % kRows + first * kRows, kRows,
                steps - first, words);
      for (int n = 0; n < kVectorRows / 4; ++n) {
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
          const std::int64_t r = row + 2 * n + kRowOfWord[k];
          take_row<begin, end>(words[4 * n + k], whole[r], sums + r * kTokens);
        }
      }
    }
  }

  /// 64 inputs with a row's signs, input i at bit i.
  template <bool begin, bool end>
  void take_row(std::uint64_t signs, std::byte* whole, float* sums) const {
    constexpr int kLineShift = std::countr_zero(static_cast<std::uint64_t>(kLineBytes));
    Line sum = {};
    if (!begin) sum.read(whole);
#pragma GCC unroll 13
    for (int t = 0; t < kPassTables; ++t) {
      const std::uint64_t entries = 1 << (t + 1 < kPassTables ? kTableInputs : kLastTableInputs);
      sum.add(tables_[0][0],
              std::rotr(signs, t * kTableInputs - kLineShift) & (entries - 1) * kLineBytes,
              t * kTableEntries * kLineBytes);
    }
    if (end) {
      sum.add_scaled(factors_, sums);
    } else {
      sum.store(whole);
    }
  }

  const std::byte* numbers_[kTokens];
  alignas(64) float factors_[kTokens];
  alignas(64) std::byte tables_[kPassTables][kTableEntries][kLineBytes];
  alignas(64) std::byte whole_[kMaxGroupBlocks][kInt8BlockRows][kLineBytes];
};

template <class Product>
void lane_chunk(const std::byte* const* words, std::int64_t blocks, const std::byte* numbers,
                std::int64_t stride, std::int64_t tokens, std::int64_t count, float* sums) {
  LaneProducts<Product>(numbers, stride, tokens).add_chunk(words, blocks, count, sums);
}

/// In place of a table a token's numbers, which fit its place.
template <class Product>
void lane_inputs(const float* x, const float* scale, bool per_column, std::int64_t count,
                 std::int64_t units, std::byte* table) {
  static_assert(kUnitHeader + kWholeInputs * sizeof(std::int32_t) <= Product::planes.table_bytes());
  for_each_rounded<Product, std::int32_t>(
      x, scale, per_column, count, units, table, [](const std::int32_t* q, std::byte* unit) {
        std::memcpy(unit + kUnitHeader, q, kWholeInputs * sizeof *q);
      });
}

template <class Product>
constexpr LaneProduct lane_product() {
  return {Product::Line::kTokens, lane_inputs<Product>, lane_chunk<Product>};
}

}  // namespace
}  // namespace fbi::kernels
