#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/gemv_kernels.h"

/// Products with signs of many tokens, which lie side by side in the lanes of a table's entries: a
/// look-up is no instruction of its own then but the address that an addition reads from. Per five
/// inputs a table holds the 32 sums of ±x, a cache line each. Up to kMaxLaneBlocks of rows pass
/// by the tables of a pass, up to 64 inputs whose signs are one word per row; its twelve or
/// thirteen tables leave the first-level cache some KB for the sums. The file that includes this
/// one has Products with
///   walk        a LaneWalk;
///   Line        a cache line of kTokens tokens' sums: read, store, + and -; add<table>, of the
///               entry at an offset into the table that lies so many bytes behind the first one;
///               add_scaled, sums[t] += factors[t] · it, rounded once; and Entries, made of a row's
///               signs, input i at bit i, whose next<t>(), asked for t = 0, 1, … in turn, is the
///               offset of the row's entry into table t;
///   read_signs  <steps>(signs, stride, left, words): words of kWordRows rows from the signs of
///               `steps` steps, `stride` bytes apart; only `left` steps have any, the inputs of
///               others are 0;
/// and side_by_side<inputs>(tokens, offset, lines): lines of the numbers that lie `offset` bytes
/// behind tokens[t]; it may write a few lines more.
namespace fbi::kernels {
namespace {

constexpr int kLineShift = 6;
constexpr std::int64_t kLineBytes = 1 << kLineShift;
constexpr int kTableInputs = 5, kTableEntries = 1 << kTableInputs;
constexpr std::uint64_t kEntryOffsets = (kTableEntries - 1) * kLineBytes;
constexpr int kWordInputs = 64, kWordRows = 32;
/// Of so many inputs, the last of which may have fewer.
constexpr int tables_of(int inputs) {
  return (inputs + kTableInputs - 1) / kTableInputs;
}
constexpr int kMaxTables = tables_of(kWordInputs);

/// Where a chunk's signs and a token's numbers lie, and in what parts they are taken. The numbers
/// of inputs that are summed up follow a factor, by which the sum enters the result.
struct LaneWalk {
  int step_inputs, sign_bytes;  ///< a row's signs of so many inputs are one number of so many bytes
  std::int64_t rows_together;   ///< a step's numbers of so many rows follow each other
  std::int64_t block_rows;
  int steps_together;          ///< there is a multiple of so many steps
  int pass_steps, rest_steps;  ///< in a pass; the latter where fewer than the former are left
  std::int64_t sum_inputs;     ///< are summed up, or what is left of a chunk
  std::int64_t first_number;   ///< bytes behind the factor
  std::int64_t step_numbers, sum_numbers;  ///< bytes from a step's (a sum's) to the next one's

  constexpr std::int64_t steps(std::int64_t inputs) const {
    const std::int64_t together = steps_together * step_inputs;
    return (inputs + together - 1) / together * steps_together;
  }
};

/// Entry c: sum ± x[b] ± x[b + 1] … ± x[inputs - 1], added in this order; x[k] enters with the sign
/// of bit k - b of c.
template <int inputs, int b = 0, class Line>
inline void fill_table(const Line* x, const Line& sum, std::byte* table) {
  if constexpr (b == inputs) {
    sum.store(table);
  } else {
    fill_table<inputs, b + 1>(x, sum - x[b], table);
    fill_table<inputs, b + 1>(x, sum + x[b], table + (kLineBytes << b));
  }
}

/// Products of up to Line::kTokens tokens with some blocks of rows.
template <class Product>
class LaneProducts {
 public:
  using Line = typename Product::Line;
  static constexpr int kTokens = Line::kTokens;

  /// sums [blocks][block_rows][kTokens]; the words of each block; numbers of token t, `stride`
  /// bytes behind those of the one before it. Lanes without a token have the first one.
  LaneProducts(const std::byte* const* words, std::int64_t blocks, const std::byte* numbers,
               std::int64_t stride, std::int64_t tokens, float* sums)
      : words_(words), blocks_(blocks), sums_(sums) {
    for (int t = 0; t < kTokens; ++t) numbers_[t] = numbers + (t < tokens ? t : 0) * stride;
  }

  /// sums += a chunk of `count` inputs.
  void add_chunk(std::int64_t count) {
    for (; count > 0; count -= kWalk.sum_inputs) {
      steps_ = kWalk.steps(count < kWalk.sum_inputs ? count : kWalk.sum_inputs);
      add_sum();
      place_ += steps_ * kWalk.sign_bytes * kWalk.block_rows;
      for (const std::byte*& numbers : numbers_) numbers += kWalk.sum_numbers;
    }
  }

 private:
  static constexpr LaneWalk kWalk = Product::walk;
  static constexpr int kPassInputs = kWalk.pass_steps * kWalk.step_inputs;
  static_assert(kPassInputs <= kWordInputs && kWalk.block_rows % kWordRows == 0);

  void add_sum() {
    for (int t = 0; t < kTokens; ++t) std::memcpy(&factors_[t], numbers_[t], sizeof factors_[t]);
    std::int64_t first = 0;
    for (; steps_ - first >= kWalk.pass_steps; first += kWalk.pass_steps) {
      take_pass<kWalk.pass_steps>(first);
    }
    for (; first < steps_; first += kWalk.rest_steps) take_pass<kWalk.rest_steps>(first);
  }

  template <int steps>
  void take_pass(std::int64_t first) {
    fill_tables<steps * kWalk.step_inputs>(first);
    const bool last = first + steps >= steps_;
    const auto take = first > 0 ? last ? &LaneProducts::take_block<steps, false, true>
                                       : &LaneProducts::take_block<steps, false, false>
                      : last ? &LaneProducts::take_block<steps, true, true>
                                : &LaneProducts::take_block<steps, true, false>;
    for (std::int64_t k = 0; k < blocks_; ++k) (this->*take)(k, first);
  }

  template <int inputs>
  void fill_tables(std::int64_t first) {
    Line x[kWordInputs];
    for (int i = 0; i < inputs; i += kWalk.step_inputs, ++first) {
      side_by_side<kWalk.step_inputs>(numbers_, kWalk.first_number + first * kWalk.step_numbers,
                                      x + i);
    }
    constexpr int kTables = tables_of(inputs), kLast = (kTables - 1) * kTableInputs;
    for (int t = 0; t + 1 < kTables; ++t) {
      fill_table<kTableInputs>(x + t * kTableInputs, Line{}, tables_[t][0]);
    }
    fill_table<inputs - kLast>(x + kLast, Line{}, tables_[kTables - 1][0]);
  }

  /// Sums += the inputs of the steps from `first` on, or = those at their beginning; at their end
  /// they are scaled and added to the results.
  template <int steps, bool begin, bool end>
  void take_block(std::int64_t block, std::int64_t first) {
    constexpr std::int64_t kRows = kWalk.rows_together, kBlockRows = kWalk.block_rows;
    const std::byte* signs = words_[block] + place_ + first * kRows * kWalk.sign_bytes;
    const std::int64_t row_signs = steps_ * kWalk.sign_bytes, left = steps_ - first;
    std::byte(*whole)[kLineBytes] = whole_[block];
    float* sums = sums_ + block * kBlockRows * kTokens;
    for (std::int64_t row = 0; row < kBlockRows; row += kWordRows) {
      alignas(64) std::uint64_t words[kWordRows];
      Product::template read_signs<steps>(
          signs + row / kRows * kRows * row_signs + row % kRows * kWalk.sign_bytes,
          kRows * kWalk.sign_bytes, left, words);
      for (int first_row = 0; first_row < kWordRows; first_row += 4) {
#pragma GCC unroll 4
        for (int r = first_row; r < first_row + 4; ++r) {
          take_row<steps * kWalk.step_inputs, begin, end>(words[r], whole[row + r],
                                                          sums + (row + r) * kTokens);
        }
      }
    }
  }

  /// A row's signs, input i at bit i.
  template <int inputs, bool begin, bool end>
  void take_row(std::uint64_t signs, std::byte* whole, float* sums) const {
    Line sum = {};
    if (!begin) sum.read(whole);
    typename Line::Entries entries(signs);
    add_entries<inputs>(sum, entries);
    if (end) {
      sum.add_scaled(factors_, sums);
    } else {
      sum.store(whole);
    }
  }

  /// From table t on.
  template <int inputs, int t = 0>
  void add_entries(Line& sum, typename Line::Entries& entries) const {
    constexpr int kTable = t * kTableEntries * kLineBytes;
    constexpr int kLeft = inputs - t * kTableInputs;
    sum.template add<kTable>(tables_[0][0], entries.template next<t>());
    if constexpr (kLeft > kTableInputs) add_entries<inputs, t + 1>(sum, entries);
  }

  const std::byte* const* words_;
  std::int64_t blocks_;
  float* sums_;
  const std::byte* numbers_[kTokens];
  std::int64_t place_ = 0, steps_ = 0;  // of the words of a sum's inputs
  alignas(64) float factors_[kTokens];
  alignas(64) std::byte tables_[tables_of(kPassInputs)][kTableEntries][kLineBytes];
  alignas(64) std::byte whole_[kMaxLaneBlocks][kWalk.block_rows][kLineBytes];
};

template <class Product>
void lane_chunk(const std::byte* const* words, std::int64_t blocks, const std::byte* numbers,
                std::int64_t stride, std::int64_t tokens, std::int64_t count, float* sums) {
  LaneProducts<Product>(words, blocks, numbers, stride, tokens, sums).add_chunk(count);
}

template <class Product>
constexpr LaneProduct lane_product(std::int64_t least, decltype(LaneProduct::inputs) inputs) {
  return {Product::Line::kTokens, least, inputs, lane_chunk<Product>};
}

}  // namespace
}  // namespace fbi::kernels
