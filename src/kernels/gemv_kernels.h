#pragma once

#include <cstddef>
#include <cstdint>

/// The building blocks of fbi/kernels/gemv.h and decode.h that every processor level provides.
/// Plain types only, for the reason that cpu_kernels.h gives.
namespace fbi::kernels {

/// Rows of one block of repacked signs: as many as keep their sums in registers.
inline constexpr std::int64_t kBlockRows = 64;
inline constexpr std::int64_t kInt8BlockRows = 128;
inline constexpr std::int64_t kMaxBlockRows = 128;
/// Blocks that are multiplied together with tokens that have tables of their own, at most.
inline constexpr std::int64_t kMaxGroupBlocks = 8;
/// Blocks that pass by the tables of one LaneProduct, at most: the more of them, the less filling
/// the tables costs, as long as their sums stay in the second-level cache.
inline constexpr std::int64_t kMaxLaneBlocks = 16;
/// Of SignProduct::streams.
inline constexpr std::int64_t kMaxStreams = 4;
/// Tokens that SignProduct::add_chunk_of_group and CacheKernels take together.
inline constexpr std::int64_t kTokenGroup = 4;
/// Of LaneProduct::tokens.
inline constexpr std::int64_t kMaxLaneTokens = 32;
/// Inputs whose signs share a 32-bit word; the two upper bits are 0.
inline constexpr std::int64_t kExactUnit = 30;
/// Inputs that share one scale when activations are 8-bit. 255 · 127 fits 16 bits.
inline constexpr std::int64_t kInt8Unit = 255;
/// Dense rows are padded with zeros to a multiple of this; key and value heads too.
inline constexpr std::int64_t kPadding = 16;

/// A product with signs for many tokens that lie side by side in the lanes of its tables.
struct LaneProduct {
  std::int64_t tokens = 0;  ///< side by side; 0: the level has no such form
  /// So many take less time so than one by one: empty lanes take as long as others, and gemv_bench
  /// prints how many times as long a token takes alone.
  std::int64_t least = 0;
  /// As SignProduct::tables; what it leaves of a token has the same place.
  void (*inputs)(const float* x, const float* scale, bool per_column, std::int64_t count,
                 std::int64_t units, std::byte* table) = nullptr;
  /// sums [blocks][block_rows][tokens] += Σ ±(x·scale) over the `count` inputs of a chunk, with the
  /// bits of SignProduct::add_chunk, from the words of each block and what `inputs` left of so many
  /// tokens, table_stride bytes apart.
  void (*add_chunk)(const std::byte* const* words, std::int64_t blocks, const std::byte* inputs,
                    std::int64_t table_stride, std::int64_t tokens, std::int64_t count,
                    float* sums) = nullptr;
};

/// A product with signs. A matrix is cut into blocks of rows and chunks of units of inputs; a
/// chunk's tables fit the first-level cache, and a sum over a chunk is formed apart before it is
/// added: some hundred terms round less than thousands. Words lie in the order in which a token's
/// product reads them, from one place or, of `streams` groups, in turn:
/// [group of blocks][chunk][block][word].
struct SignProduct {
  std::int64_t block_rows;
  std::int64_t unit_inputs;  ///< a multiple of word_inputs, or one less
  std::int64_t word_inputs;
  std::int64_t word_bytes;        ///< of one block
  std::int64_t unit_table_bytes;  ///< a multiple of 64
  std::int64_t chunk_units;       ///< at most
  std::int64_t group_blocks;      ///< whose words of a chunk follow each other
  /// Words of one block and unit from `rows` rows of packed bits that are row_stride bytes apart;
  /// takes inputs [first, first + count). What is beyond rows or count is left 0.
  void (*repack)(const std::uint8_t* bits, std::int64_t row_stride, std::int64_t rows,
                 std::int64_t first, std::int64_t count, std::byte* words);
  /// Tables of consecutive units from x[i]·scale[i] (one scale for all when !per_column), i <
  /// count; inputs beyond count are 0.
  void (*tables)(const float* x, const float* scale, bool per_column, std::int64_t count,
                 std::int64_t units, std::byte* table);
  /// sums[r] += Σ ±(x·scale) over the `count` inputs of a chunk, of 1 to `streams` blocks:
  /// words[k * apart], sums + k * apart * kMaxBlockRows. A block's bits do not depend on the
  /// others.
  void (*add_chunk)(const std::byte* const* words, std::int64_t apart, std::int64_t blocks,
                    const std::byte* table, std::int64_t count, float* sums);
  /// The same of one block for kTokenGroup tokens whose tables and sums are table_stride bytes and
  /// sums_stride values apart; each has the bits of add_chunk. Null where a level gains nothing by
  /// it.
  void (*add_chunk_of_group)(const std::byte* words, const std::byte* tables,
                             std::int64_t table_stride, std::int64_t count, float* sums,
                             std::int64_t sums_stride) = nullptr;
  /// Groups of which one block each is taken together: a core that computes reads several places
  /// of the memory in turn faster than one after the other.
  std::int64_t streams = 1;
  LaneProduct lanes = {};
};

/// Dense rows up to this length are one chain of additions, longer ones four.
inline constexpr std::int64_t kShortRow = 256, kDenseChains = 4;

/// y[r] = Σ_i w[r][i] x[i] of `rows` rows, row_stride bytes apart; columns is a multiple of
/// kPadding. One pass over all columns in an order that does not depend on `rows`.
struct DenseProduct {
  void (*rows)(const std::byte* w, std::int64_t row_stride, std::int64_t columns, const float* x,
               std::int64_t rows, float* y);
  /// The same for group_tokens tokens, with the bits that each has alone, of more than kShortRow
  /// columns; null where a level has no such kernel. x: chain by chain, kPadding values of each
  /// token side by side; what four chains leave belongs to the first.
  std::int64_t group_tokens = 1;
  void (*group)(const std::byte* w, std::int64_t row_stride, std::int64_t columns, const float* x,
                std::int64_t rows, float* y, std::int64_t y_stride) = nullptr;
};

/// Of Int8Product::rows: |q| is at most this, and so many columns of 8 bits are added in 32.
inline constexpr std::int64_t kMostInt8Input = 32767, kInt8Columns = 4096;

/// y[r] = Σ_i w[r][i] q[i] with weights of 8 bits, at least -127, and inputs of 16: an exact sum of
/// whole numbers, rounded to fp32 once. So all levels give the same bits, and all ways to add.
struct Int8Product {
  void (*rows)(const std::byte* w, std::int64_t row_stride, std::int64_t columns,
               const std::int16_t* q, std::int64_t rows, float* y);
  /// The same for group_tokens tokens, kPadding values of each side by side; null where a level has
  /// no such kernel.
  std::int64_t group_tokens = 1;
  void (*group)(const std::byte* w, std::int64_t row_stride, std::int64_t columns,
                const std::int16_t* q, std::int64_t rows, float* y,
                std::int64_t y_stride) = nullptr;
};

/// Attention over one head in a cache; head_dim is a multiple of kPadding.
struct CacheKernels {
  /// out [head_dim] = Σ_p weights[p] values[p], or += that.
  void (*mix)(const float* weights, const std::byte* values, std::int64_t positions,
              std::int64_t head_dim, bool add_to_out, float* out);
  /// Of kTokenGroup queries, with the bits that each has alone; null where a level gains nothing by
  /// it. scores[n * scores_stride + p] = query n · key p
  void (*score_queries)(const float* queries, std::int64_t query_stride, const std::byte* keys,
                        std::int64_t positions, std::int64_t head_dim, float* scores,
                        std::int64_t scores_stride) = nullptr;
  /// mix with weights[n * weights_stride + p] into out[n * out_stride + e]
  void (*mix_queries)(const float* weights, std::int64_t weights_stride, const std::byte* values,
                      std::int64_t positions, std::int64_t head_dim, bool add_to_out, float* out,
                      std::int64_t out_stride) = nullptr;
};

struct GemvKernels {
  SignProduct exact;
  SignProduct int8;
  DenseProduct fp32, fp16;
  Int8Product int8_rows;
  /// Σ x[i] y[i]; y is one value for all i when !per_element.
  float (*dot)(const float* x, const float* y, bool per_element, std::int64_t count);
  CacheKernels fp32_cache, fp16_cache;
  /// IEEE 754 binary16, to nearest even.
  void (*to_half)(const float* x, std::int64_t count, std::uint16_t* out);
};

/// Plain loops; every other level is tested against it.
extern const GemvKernels kRefGemv;
extern const GemvKernels kPortableGemv;
extern const GemvKernels kNeonGemv;
extern const GemvKernels kAvx2Gemv;
extern const GemvKernels kAvx512Gemv;

/// Those of chosen_level().
const GemvKernels& gemv_kernels();

/// SignProduct::repack of the layouts.
/// kExactUnit: [kBlockRows] words of 32 bits, input i at bit i.
void repack_words32(const std::uint8_t* bits, std::int64_t row_stride, std::int64_t rows,
                    std::int64_t first, std::int64_t count, std::byte* words);
/// kInt8Unit: [17][kInt8BlockRows] words of 16 bits, 15 inputs each.
void repack_words16(const std::uint8_t* bits, std::int64_t row_stride, std::int64_t rows,
                    std::int64_t first, std::int64_t count, std::byte* words);
/// [kInt8BlockRows / rows_together][words][rows_together] words of 16 bits, 16 inputs each.
template <std::int64_t rows_together>
void repack_pairs(const std::uint8_t* bits, std::int64_t row_stride, std::int64_t rows,
                  std::int64_t first, std::int64_t count, std::byte* words);
/// [kInt8BlockRows / rows_together][words][steps][rows_together] bytes of 8 inputs each; a word is
/// `steps` of them.
template <std::int64_t rows_together, std::int64_t steps>
void repack_steps(const std::uint8_t* bits, std::int64_t row_stride, std::int64_t rows,
                  std::int64_t first, std::int64_t count, std::byte* words);

/// Parts of the reference that the portable level has no faster form of.
namespace ref {

float dot(const float* x, const float* y, bool per_element, std::int64_t count);
void to_half(const float* x, std::int64_t count, std::uint16_t* out);
/// Rounds x·scale of one unit to 8 bits; returns what one of them is worth.
float quantize(const float* x, const float* scale, bool per_column, std::int64_t count,
               std::int8_t* q);

}  // namespace ref

}  // namespace fbi::kernels
