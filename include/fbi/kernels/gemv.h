#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "fbi/core/parallel.h"
#include "fbi/kernels/aligned_memory.h"
#include "fbi/kernels/binary_matrix.h"
#include "fbi/kernels/decode.h"

/// Products y = x Wᵀ of one token or many: of a decode step, a prompt, or a training step with
/// train.sign_products=tables. A matrix is repacked once, for
/// chosen_level() at that time, into the order in which its kernel reads it. A result depends on
/// its own token and row only, bit for bit: not on the number of tokens, threads or ranges.
///
/// The parts (`prepare`, `multiply`) take ranges, so that threads that run in step can share the
/// work without a thread start per product; the free functions do the whole on a ParallelFor.
namespace fbi::kernels {

/// How activations enter the product with signs.
enum class Activations {
  kExact,  ///< fp32; with AVX2 and NEON whole numbers, sums of four having 24 bits, one scale per
           ///< 256
  kInt8,   ///< alpha·x rounded to 8 bits with one scale per 255 inputs; integer sums are exact
};

struct SignProduct;  // kernels/gemv_kernels.h
struct GemvKernels;  // same

/// W~ = alpha·s + beta, [rows, columns] = [O, I], as sign bits in memory.
///
/// Per group of some inputs (5 with AVX-512, 4 with AVX2 and NEON) a table holds the sums of
/// ±alpha·x for all sign combinations; a product is then one look-up and one addition per group and
/// row. Many tokens share a table of 5 inputs, whose entries hold the sums of all of them. Beta
/// enters as one dot product for all rows.
class BinaryLinear {
 public:
  BinaryLinear() = default;
  /// `bits` as binary_matrix.h lays them out; alpha and beta hold strides.count(…) values. The
  /// repacked signs go into `arena`, which must then live longer, or, without one, into memory of
  /// their own.
  BinaryLinear(const std::uint8_t* bits, std::span<const float> alpha, std::span<const float> beta,
               ScaleStrides strides, MatrixShape shape, Activations activations,
               ParallelFor& parallel, Arena* arena = nullptr);

  MatrixShape shape() const { return shape_; }
  /// Rows that the kernel computes together, the grain of row ranges.
  std::int64_t block_rows() const;
  std::int64_t row_blocks() const { return row_blocks_; }
  /// Blocks that multiply() takes together: those that are read in turn for one token, more where
  /// several tokens' tables would have to be fetched again. Ranges best end with them.
  std::int64_t blocks_at_once(std::int64_t tokens) const;
  std::int64_t table_parts() const { return units_; }
  std::size_t table_bytes() const { return table_bytes_; }  ///< of one token's table
  std::size_t weight_bytes() const { return word_bytes_; }

  /// Of `tokens` tokens that are multiplied together, how many lie side by side in the lanes of
  /// shared tables: the first ones. The others have tables of their own.
  std::int64_t tokens_in_lanes(std::int64_t tokens) const;
  /// Tokens that are best multiplied together.
  std::int64_t tokens_at_once() const;

  /// Writes parts [begin, end) of the table of one token's x [columns] to `table` [table_bytes()],
  /// aligned to 64 bytes; of a token in lanes what their table is made of.
  void prepare(const float* x, std::int64_t begin, std::int64_t end, bool in_lanes,
               std::byte* table) const;
  /// y[t * stride + o] for the rows o of blocks [begin, end) and tokens t, from complete tables,
  /// table_bytes() apart.
  void multiply(std::int64_t begin, std::int64_t end, const std::byte* tables, std::int64_t tokens,
                float* y, std::int64_t stride) const;

 private:
  void chunk_words(std::int64_t chunk, std::int64_t first, std::int64_t blocks,
                   const std::byte** words) const;
  void repack(const std::uint8_t* bits, std::int64_t block, std::byte* words) const;
  void add_chunk(std::int64_t chunk, std::int64_t first, std::int64_t blocks,
                 const std::byte* tables, std::int64_t tokens, float* sums) const;
  void multiply_blocks(std::int64_t first, std::int64_t blocks, const std::byte* tables,
                       std::int64_t tokens, float* y, std::int64_t stride) const;
  void multiply_blocks_in_lanes(std::int64_t first, std::int64_t blocks, const std::byte* tables,
                                std::int64_t tokens, float* y, std::int64_t stride) const;
  void store_block(std::int64_t block, float* sums, std::int64_t tokens, const float* shifts,
                   float* y, std::int64_t stride) const;
  void store_rows(std::int64_t block, const float* sums, float shift, float* y) const;

  const SignProduct* product_ = nullptr;
  MatrixShape shape_;
  ScaleStrides strides_;
  std::vector<float> alpha_, beta_;
  AlignedMemory own_;
  const std::byte* words_ = nullptr;  // [group of row blocks][chunk][row block][word]
  std::size_t word_bytes_ = 0;
  std::int64_t row_blocks_ = 0, units_ = 0, chunk_units_ = 0, chunk_inputs_ = 0;
  std::int64_t chunk_bytes_ = 0, last_chunk_bytes_ = 0, block_bytes_ = 0;  // words of one block
  std::size_t table_bytes_ = 0;
};

/// y [tokens, rows] = x [tokens, columns] W~ᵀ
void multiply(const BinaryLinear& w, const float* x, std::int64_t tokens, float* y,
              ParallelFor& parallel);

/// A dense matrix [rows, columns], as the head is.
class DenseLinear {
 public:
  DenseLinear() = default;
  DenseLinear(MatrixShape shape, Storage storage);

  MatrixShape shape() const { return shape_; }
  Storage storage() const { return storage_; }
  /// Values that each token's x must have: columns rounded up; those beyond `columns` are 0.
  std::int64_t padded_columns() const { return padded_columns_; }
  std::size_t weight_bytes() const;
  /// The rows as they lie in memory, row_stride_bytes() apart, and their scales (kInt8).
  std::span<const std::byte> values() const { return {values_.data(), values_.size()}; }
  std::int64_t row_stride_bytes() const { return row_stride_bytes_; }
  std::span<const float> row_scales() const { return row_scale_; }

  /// Rounds `values` [columns] into a row. Rows may be set from several threads.
  void set_row(std::int64_t row, std::span<const float> values);

  /// y[t * y_stride + o] for rows [begin, end); token t reads x + t * x_stride. kInt8 rounds each
  /// token's x to 16 bits, by its largest value, and adds whole numbers.
  void multiply(std::int64_t begin, std::int64_t end, const float* x, std::int64_t x_stride,
                std::int64_t tokens, float* y, std::int64_t y_stride) const;

  /// What kInt8 makes of one token's x [padded_columns], for many ranges of rows.
  struct RoundedInput {
    std::vector<std::int16_t> values;
    float step = 0;  ///< what 1 is worth
  };
  void round(const float* x, RoundedInput& out) const;
  /// y[o] for rows [begin, end), with the bits of the other form. Does not throw.
  void multiply(std::int64_t begin, std::int64_t end, const RoundedInput& x, float* y) const;

 private:
  void multiply_rounded(std::int64_t begin, std::int64_t end, const float* x, std::int64_t x_stride,
                        std::int64_t tokens, float* y, std::int64_t y_stride) const;

  const GemvKernels* kernels_ = nullptr;
  MatrixShape shape_;
  Storage storage_ = Storage::kFp32;
  std::int64_t padded_columns_ = 0, row_stride_bytes_ = 0;
  AlignedMemory values_;
  std::vector<float> row_scale_;  // kInt8
};

/// y [tokens, rows] = x [tokens, columns] Wᵀ
void multiply(const DenseLinear& w, const float* x, std::int64_t tokens, float* y,
              ParallelFor& parallel);

}  // namespace fbi::kernels
