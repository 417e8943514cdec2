#include "fbi/kernels/gemv.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "fbi/core/error.h"
#include "fbi/kernels/dispatch.h"
#include "kernels/blocks.h"
#include "kernels/dispatch.h"
#include "kernels/gemv_kernels.h"

namespace fbi::kernels {
namespace {

/// A table begins with the term that beta adds to every row; the units follow at the next line.
constexpr std::size_t kTableHeader = 64;

constexpr std::int64_t kTokensAtOnce = 16;

std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

const GemvKernels& gemv_kernels() {
  switch (chosen_level()) {
    case Level::kAvx512:
      return kAvx512Gemv;
    case Level::kAvx2:
      return kAvx2Gemv;
    case Level::kNeon:
      return kNeonGemv;
    case Level::kPortable:
      return kPortableGemv;
    case Level::kRef:
      break;
  }
  return kRefGemv;
}

std::int64_t BinaryLinear::block_rows() const {
  return product_->block_rows;
}

std::int64_t BinaryLinear::blocks_at_once(std::int64_t tokens) const {
  if (tokens_in_lanes(tokens) > 0) return kMaxLaneBlocks;
  return tokens == 1 ? product_->streams * product_->group_blocks : kMaxGroupBlocks;
}

BinaryLinear::BinaryLinear(const std::uint8_t* bits, std::span<const float> alpha,
                           std::span<const float> beta, ScaleStrides strides, MatrixShape shape,
                           Activations activations, ParallelFor& parallel, Arena* arena)
    : product_(activations == Activations::kExact ? &gemv_kernels().exact : &gemv_kernels().int8),
      shape_(shape),
      strides_(strides),
      alpha_(alpha.begin(), alpha.end()),
      beta_(beta.begin(), beta.end()),
      row_blocks_(divide_up(shape.rows, product_->block_rows)),
      units_(divide_up(shape.columns, product_->unit_inputs)) {
  check_strides(strides);
  const std::int64_t scales = strides.count(shape.rows, shape.columns);
  if (std::ssize(alpha) != scales || std::ssize(beta) != scales) {
    throw UsageError(concat("alpha and beta of a [", shape.rows, ", ", shape.columns,
                            "] matrix: expected ", scales, " values, found ", alpha.size(), " and ",
                            beta.size()));
  }
  table_bytes_ = kTableHeader + static_cast<std::size_t>(units_ * product_->unit_table_bytes);
  // As many chunks as there must be, of about equal size.
  const std::int64_t chunks = std::max<std::int64_t>(1, divide_up(units_, product_->chunk_units));
  chunk_units_ = std::max<std::int64_t>(1, divide_up(units_, chunks));
  chunk_inputs_ = chunk_units_ * product_->unit_inputs;
  const auto bytes = [&](std::int64_t inputs) {  // of one block's words
    const std::int64_t whole = inputs / product_->unit_inputs;
    return product_->word_bytes *
           (whole * divide_up(product_->unit_inputs, product_->word_inputs) +
            divide_up(inputs % product_->unit_inputs, product_->word_inputs));
  };
  chunk_bytes_ = bytes(chunk_inputs_);
  const std::int64_t last_chunk = std::max<std::int64_t>(0, shape.columns - 1) / chunk_inputs_;
  last_chunk_bytes_ = bytes(shape.columns - last_chunk * chunk_inputs_);
  block_bytes_ = last_chunk * chunk_bytes_ + last_chunk_bytes_;
  word_bytes_ = static_cast<std::size_t>(row_blocks_ * block_bytes_);
  if (!arena) own_ = AlignedMemory(word_bytes_);
  std::byte* words = arena ? arena->take(word_bytes_) : own_.data();
  words_ = words;
  parallel.run(0, row_blocks_, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) repack(bits, block, words);
  });
}

/// words[k]: where those of block first + k in a chunk begin. Divisions take long, so there is one.
void BinaryLinear::chunk_words(std::int64_t chunk, std::int64_t first, std::int64_t blocks,
                               const std::byte** words) const {
  const std::int64_t together = product_->group_blocks, end = first + blocks;
  const bool last = (chunk + 1) * chunk_inputs_ >= shape_.columns;
  const std::int64_t bytes = last ? last_chunk_bytes_ : chunk_bytes_;  // all chunks before are full
  std::int64_t block = first;
  for (std::int64_t group = first / together * together; group < end; group += together) {
    const std::int64_t group_end = std::min(group + together, row_blocks_);
    const std::byte* place =
        words_ + group * block_bytes_ + chunk * chunk_bytes_ * (group_end - group);
    for (; block < std::min(group_end, end); ++block) {
      words[block - first] = place + (block - group) * bytes;
    }
  }
}

void BinaryLinear::repack(const std::uint8_t* bits, std::int64_t block, std::byte* words) const {
  const std::int64_t row = block * product_->block_rows, row_stride = row_bytes(shape_.columns);
  const std::int64_t unit_words = divide_up(product_->unit_inputs, product_->word_inputs);
  for (std::int64_t unit = 0; unit < units_; ++unit) {
    const std::int64_t first = unit * product_->unit_inputs, chunk = unit / chunk_units_;
    const std::byte* chunk_begin;
    chunk_words(chunk, block, 1, &chunk_begin);
    const std::int64_t place =
        chunk_begin - words_ + unit % chunk_units_ * unit_words * product_->word_bytes;
    product_->repack(bits + row * row_stride, row_stride,
                     std::min(product_->block_rows, shape_.rows - row), first,
                     std::min(product_->unit_inputs, shape_.columns - first), words + place);
  }
}

std::int64_t BinaryLinear::tokens_in_lanes(std::int64_t tokens) const {
  const LaneProduct& lanes = product_->lanes;
  if (lanes.tokens == 0) return 0;
  const std::int64_t rest = tokens % lanes.tokens;
  return rest >= lanes.least ? tokens : tokens - rest;
}

std::int64_t BinaryLinear::tokens_at_once() const {
  return std::max(kTokensAtOnce, product_->lanes.tokens);
}

void BinaryLinear::prepare(const float* x, std::int64_t begin, std::int64_t end, bool in_lanes,
                           std::byte* table) const {
  if (begin >= end) return;
  const bool per_column = strides_.column != 0;
  constexpr float one = 1;
  if (begin == 0) {
    const float shift =
        gemv_kernels().dot(x, per_column ? beta_.data() : &one, per_column, shape_.columns);
    std::memcpy(table, &shift, sizeof shift);
  }
  const std::int64_t first = begin * product_->unit_inputs;
  const auto tables = in_lanes ? product_->lanes.inputs : product_->tables;
  tables(x + first, per_column ? alpha_.data() + first : &one, per_column,
         std::min(end * product_->unit_inputs, shape_.columns) - first, end - begin,
         table + kTableHeader + begin * product_->unit_table_bytes);
}

/// sums [tokens][kMaxGroupBlocks][kMaxBlockRows]
void BinaryLinear::add_chunk(std::int64_t chunk, std::int64_t first, std::int64_t blocks,
                             const std::byte* tables, std::int64_t tokens, float* sums) const {
  const std::int64_t count = std::min(chunk_inputs_, shape_.columns - chunk * chunk_inputs_);
  const std::int64_t place =
      static_cast<std::int64_t>(kTableHeader) + chunk * chunk_units_ * product_->unit_table_bytes;
  const auto table_stride = static_cast<std::int64_t>(table_bytes_);
  constexpr std::int64_t sums_stride = kMaxGroupBlocks * kMaxBlockRows;
  const std::byte* words[kMaxGroupBlocks];
  chunk_words(chunk, first, blocks, words);
  std::int64_t t = 0;
  for (; product_->add_chunk_of_group && t + kTokenGroup <= tokens; t += kTokenGroup) {
    for (std::int64_t k = 0; k < blocks; ++k) {
      product_->add_chunk_of_group(words[k], tables + t * table_stride + place, table_stride, count,
                                   sums + t * sums_stride + k * kMaxBlockRows, sums_stride);
    }
  }
  for (; t < tokens; ++t) {
    const std::int64_t apart = product_->group_blocks, streams = product_->streams;
    for (std::int64_t round = 0; round < blocks; round += streams * apart) {
      const bool whole = round + streams * apart <= blocks;
      for (std::int64_t k = round; k < std::min(round + apart, blocks); ++k) {
        product_->add_chunk(words + k, apart, whole ? streams : divide_up(blocks - k, apart),
                            tables + t * table_stride + place, count,
                            sums + t * sums_stride + k * kMaxBlockRows);
      }
    }
  }
}

/// y of a group of blocks, for tokens that are multiplied one by one.
void BinaryLinear::multiply_blocks(std::int64_t first, std::int64_t blocks, const std::byte* tables,
                                   std::int64_t tokens, float* y, std::int64_t stride) const {
  alignas(64) float sums[kTokensAtOnce][kMaxGroupBlocks][kMaxBlockRows];
  std::fill_n(&sums[0][0][0], tokens * kMaxGroupBlocks * kMaxBlockRows, 0.0f);
  for (std::int64_t chunk = 0; chunk * chunk_inputs_ < shape_.columns; ++chunk) {
    add_chunk(chunk, first, blocks, tables, tokens, &sums[0][0][0]);
  }
  for (std::int64_t t = 0; t < tokens; ++t) {
    float shift;
    std::memcpy(&shift, tables + static_cast<std::size_t>(t) * table_bytes_, sizeof shift);
    for (std::int64_t k = 0; k < blocks; ++k) {
      store_rows(first + k, sums[t][k], shift, y + t * stride);
    }
  }
}

/// The same side by side.
void BinaryLinear::multiply_blocks_in_lanes(std::int64_t first, std::int64_t blocks,
                                            const std::byte* tables, std::int64_t tokens, float* y,
                                            std::int64_t stride) const {
  const LaneProduct& lanes = product_->lanes;
  alignas(64) float sums[kMaxLaneBlocks * kMaxBlockRows * kMaxLaneTokens];
  const std::int64_t block_sums = product_->block_rows * lanes.tokens;
  std::fill_n(sums, blocks * block_sums, 0.0f);
  const std::byte* words[kMaxLaneBlocks];
  for (std::int64_t chunk = 0; chunk * chunk_inputs_ < shape_.columns; ++chunk) {
    chunk_words(chunk, first, blocks, words);
    const std::int64_t unit = chunk * chunk_units_;
    lanes.add_chunk(words, blocks, tables + kTableHeader + unit * product_->unit_table_bytes,
                    static_cast<std::int64_t>(table_bytes_), tokens,
                    std::min(chunk_inputs_, shape_.columns - chunk * chunk_inputs_), sums);
  }
  float shifts[kMaxLaneTokens];
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::memcpy(&shifts[t], tables + static_cast<std::size_t>(t) * table_bytes_, sizeof shifts[t]);
  }
  for (std::int64_t k = 0; k < blocks; ++k) {
    store_block(first + k, sums + k * block_sums, tokens, shifts, y, stride);
  }
}

void BinaryLinear::multiply(std::int64_t begin, std::int64_t end, const std::byte* tables,
                            std::int64_t tokens, float* y, std::int64_t stride) const {
  const std::int64_t in_lanes = tokens_in_lanes(tokens), rest = tokens - in_lanes;
  const auto take = [&](std::int64_t first, std::int64_t blocks, std::int64_t first_token,
                        std::int64_t last_token, std::int64_t at_once, auto product) {
    for (std::int64_t t = first_token; t < last_token; t += at_once) {
      (this->*product)(first, blocks, tables + static_cast<std::size_t>(t) * table_bytes_,
                       std::min(at_once, last_token - t), y + t * stride, stride);
    }
  };
  // About the same number of blocks each time.
  const std::int64_t all = end - begin, times = divide_up(all, kMaxLaneBlocks);
  for (std::int64_t k = 0; in_lanes > 0 && k < times; ++k) {
    const std::int64_t first = begin + all * k / times, last = begin + all * (k + 1) / times;
    take(first, last - first, 0, in_lanes, product_->lanes.tokens,
         &BinaryLinear::multiply_blocks_in_lanes);
  }
  const std::int64_t together = blocks_at_once(rest);
  for (std::int64_t first = begin, blocks; rest > 0 && first < end; first += blocks) {
    blocks = std::min(together - first % together, end - first);
    take(first, blocks, in_lanes, tokens, kTokensAtOnce, &BinaryLinear::multiply_blocks);
  }
}

/// As store_rows, of sums [block_rows][lanes], which it may change.
void BinaryLinear::store_block(std::int64_t block, float* sums, std::int64_t tokens,
                               const float* shifts, float* y, std::int64_t stride) const {
  const std::int64_t lanes = product_->lanes.tokens, first = block * product_->block_rows;
  const std::int64_t rows = std::min(product_->block_rows, shape_.rows - first);
  const bool per_column = strides_.column != 0;
  for (std::int64_t r = 0; !per_column && r < rows; ++r) {
    const std::int64_t k = (first + r) * strides_.row;
    const float alpha = alpha_[k], beta = beta_[k];
    float* row = sums + r * lanes;
    for (std::int64_t t = 0; t < tokens; ++t) row[t] = alpha * row[t] + beta * shifts[t];
  }
  cpu_kernels().transpose(sums, lanes, rows, tokens, per_column ? shifts : nullptr, y + first,
                          stride);
}

/// Column: sums hold alpha, shift holds beta. Row, single: both are applied here.
void BinaryLinear::store_rows(std::int64_t block, const float* sums, float shift, float* y) const {
  const std::int64_t first = block * product_->block_rows;
  const std::int64_t end = std::min(shape_.rows, first + product_->block_rows);
  if (strides_.column != 0) {
    for (std::int64_t o = first; o < end; ++o) y[o] = sums[o - first] + shift;
    return;
  }
  for (std::int64_t o = first; o < end; ++o) {
    const std::int64_t k = o * strides_.row;
    y[o] = alpha_[k] * sums[o - first] + beta_[k] * shift;
  }
}

void multiply(const BinaryLinear& w, const float* x, std::int64_t tokens, float* y,
              ParallelFor& parallel) {
  const auto [rows, columns] = w.shape();
  const std::int64_t at_once = w.tokens_at_once();
  parallel.run(0, tokens, at_once, [&, rows, columns](std::int64_t begin, std::int64_t end) {
    AlignedMemory tables(w.table_bytes() *
                         static_cast<std::size_t>(std::min(at_once, end - begin)));
    for (std::int64_t first = begin; first < end; first += at_once) {
      const std::int64_t count = std::min(at_once, end - first);
      for (std::int64_t t = 0; t < count; ++t) {
        w.prepare(x + (first + t) * columns, 0, w.table_parts(), t < w.tokens_in_lanes(count),
                  tables.data() + static_cast<std::size_t>(t) * w.table_bytes());
      }
      w.multiply(0, w.row_blocks(), tables.data(), count, y + first * rows, rows);
    }
  });
}

}  // namespace fbi::kernels
