#pragma once

#include <cstddef>
#include <cstdint>

#include "fbi/kernels/cuda.h"
#include "fbi/kernels/decode.h"

/// What the 1-bit runtime computes on a GPU, for one or a few tokens; the rules of cuda.h hold
/// here, too, and all arithmetic is fp32. A token's bits depend on itself and the tokens before it
/// only.
///
/// A decoder layer is five launches: project, attend, multiply_add, gate, multiply_add. Between two
/// of them lies one vector per token. Whoever writes it leaves it as the products that read it next
/// need it (Readers): times their alpha, with the sum that their beta multiplies, and with the
/// squares that a norm needs. So a product reads its signs and one vector, and a norm costs no
/// launch.
///
/// On compute capability 9.0 project, attend, multiply_add and gate begin while the launch before
/// them in their stream still runs, and wait where they need what it writes. So that launch must
/// not be one that writes weights, rows or angles.
namespace fbi::kernels::cuda {

/// Number of bytes that repack_signs writes.
std::int64_t repacked_bytes(MatrixShape shape);
/// Signs in the order in which the products read them: [row / 32][column / 128][row % 32][column %
/// 128], rows and columns filled up with zeros. `words` is aligned to 16 bytes. With a `head_dim`
/// (even, > 0) the rows of every head are taken in the order 0, h/2, 1, h/2 + 1, …, so that the two
/// that are rotated together lie side by side.
void repack_signs(const std::uint8_t* bits, MatrixShape shape, std::int64_t head_dim, void* words,
                  Stream stream);

/// W~ = alpha·s + beta. Alpha and beta belong to the matrix' readers where they are per column.
struct RepackedMatrix {
  const void* words = nullptr;  ///< by repack_signs
  const float* alpha = nullptr;
  const float* beta = nullptr;
  ScaleStrides strides;
  MatrixShape shape;
};

/// Floats of `parts` per token that a vector of this width needs, which is heads·head_dim for the
/// result of attend, and one head otherwise.
std::int64_t reader_parts(std::int64_t heads, std::int64_t head_dim);

/// What one product of the next launch reads.
struct Reader {
  const float* alpha = nullptr;  ///< [width] of a matrix with scales per column, else null
  const float* beta = nullptr;   ///< the same
  float* scaled = nullptr;       ///< [tokens, width]: alpha·x, or x
  float* sums = nullptr;         ///< [tokens, parts]: of beta·x, or of x
};
struct Readers {
  static constexpr int kMost = 3;
  Reader reader[kMost];
  int count = 0;
  std::int64_t width = 0, parts = 0;
  const float* norm = nullptr;  ///< [width]: what is read is x·norm / sqrt(mean(x²) + eps)
  float* squares = nullptr;     ///< [tokens, parts], with a norm
};

/// One product's input: what a Reader left.
struct ProductInput {
  const float* scaled = nullptr;
  const float* sums = nullptr;
  const float* squares = nullptr;  ///< null: no norm
  std::int64_t parts = 0;
  float eps = 0;
};

/// A token: its cache holds the `position` tokens before it.
struct DecodeRow {
  std::int64_t position = 0;
  std::byte* cache = nullptr;  ///< [position][layer][key, value][key/value head][padded head]
  std::int64_t id = 0;
};

struct DenseMatrix {
  const void* values = nullptr;      ///< [rows, stride], as kernels::DenseLinear has it
  const float* row_scale = nullptr;  ///< kInt8
  Storage storage = Storage::kFp32;
  MatrixShape shape;
  std::int64_t row_stride_bytes = 0;  ///< a multiple of 16; values beyond the columns are 0
};

/// residual [tokens, columns] = the rows of an embedding that the ids name, and it is published.
/// Ids are not checked.
void embed(const DenseMatrix& table, const DecodeRow* rows, std::int64_t tokens, float* residual,
           const Readers& readers, Stream stream);

/// residual [tokens, rows] += x W~ᵀ, and the sum is published. The product is exact as that of
/// kernels::BinaryLinear (relative error below 2e-6 of Σ|W~||x|).
void multiply_add(const RepackedMatrix& w, const ProductInput& input, std::int64_t tokens,
                  float* residual, const Readers& readers, Stream stream);

/// Publishes silu(x Gᵀ)·(x Uᵀ).
void gate(const RepackedMatrix& gate, const ProductInput& gate_input, const RepackedMatrix& up,
          const ProductInput& up_input, std::int64_t tokens, const Readers& readers, Stream stream);

/// The attention of one layer.
struct AttentionShape {
  std::int64_t heads = 0, key_value_heads = 0, head_dim = 0;
  std::int64_t layer = 0, layers = 0;
  CacheType cache = CacheType::kFp32;
  std::int64_t most_positions = 0;  ///< of a token; decides how many blocks share a head

  /// Of all layers.
  std::int64_t position_bytes() const {
    return 2 * layers * key_value_heads * padded_head(head_dim) * size_of(cache);
  }
};
constexpr std::int64_t kMaxHeadDim = 256;

struct ProjectArgs {
  RepackedMatrix q, k, v;  ///< q and k repacked by heads
  ProductInput q_input, k_input, v_input;
  AttentionShape shape;
  std::int64_t tokens = 0;
  const DecodeRow* rows = nullptr;  ///< [tokens]
  const float* angles = nullptr;    ///< [tokens, head_dim]: cos of each pair, then sin
  float* queries = nullptr;         ///< [tokens, heads, head_dim]
};
/// Queries, rotated; keys, rotated, and values into the caches, whose padding is left alone.
void project(const ProjectArgs& args, Stream stream);

/// Numbers of floats and counters that attend needs. Counters are 0 before the first call, and
/// after each.
std::int64_t attend_workspace(const AttentionShape& shape, std::int64_t tokens);
std::int64_t attend_counters(const AttentionShape& shape, std::int64_t tokens);

struct AttendTokensArgs {
  AttentionShape shape;  ///< head_dim <= kMaxHeadDim
  std::int64_t tokens = 0;
  const DecodeRow* rows = nullptr;  ///< [tokens]; the caches' padding is 0
  const float* queries = nullptr;
  float* workspace = nullptr;
  unsigned* counters = nullptr;
};
/// Publishes softmax(q·Kᵀ / sqrt(head_dim)) V over the positions of each token, its own included.
void attend(const AttendTokensArgs& args, const Readers& readers, Stream stream);

/// y [tokens, rows] = x Wᵀ
void multiply_dense(const DenseMatrix& w, const ProductInput& input, std::int64_t tokens, float* y,
                    Stream stream);

/// Reads memory and leaves something in *sink: how fast a device reads. A multiple of 16 bytes.
void read_all(const void* memory, std::int64_t bytes, unsigned* sink, Stream stream);

}  // namespace fbi::kernels::cuda
