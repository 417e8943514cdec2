#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "infer/key_value_cache.h"
#include "infer/packed_weights.h"
#include "infer/rotary.h"
#include "infer/team.h"

namespace fbi::infer {

/// One token to feed: its sequence's cache holds `position` tokens or more, of which the first
/// `position` are those before it.
struct TokenRow {
  std::int32_t id = 0;
  std::int64_t position = 0;
  KeyValueCache* cache = nullptr;
};

/// The arithmetic of the model. Rows of one call may belong to one sequence (a prompt) or to
/// several; each gives the bits that it gives alone.
class Forward {
 public:
  Forward(const PackedWeights& weights, Team& team, kernels::CacheType cache);

  /// Rows that are computed together: as many as keep their tables in the second-level cache.
  static constexpr std::int64_t kMaxRows = 16;

  /// Stores keys and values and leaves the normed hidden states of the last rows inside; at most
  /// kMaxRows rows, caches reserved for their positions.
  void run(std::span<const TokenRow> rows);
  /// logits [count, V] of the hidden states [first, first + count) of the last run.
  void logits(std::int64_t first, std::int64_t count, float* out);

 private:
  /// A product on its way: where its table is and its result goes.
  struct Item {
    const kernels::BinaryLinear* linear;
    float* out;
    std::int64_t stride;
    std::byte* tables;
  };

  void place_scratch();
  void layer(const Member& member, std::int64_t index);
  void attention(const Member& member, std::int64_t index);
  void store_keys_and_values(const Member& member, std::int64_t index);
  void attend(const Member& member, std::int64_t index);
  void norm(const Member& member, const std::vector<float>& weight);
  void prepare(const Member& member, const Item& item, const float* x, std::int64_t x_stride);
  void add_to_residual(const Member& member, const Item& item);
  Item item(const kernels::BinaryLinear& linear, float* out, int table);

  const PackedWeights& weights_;
  const config::ModelConfig& model_;
  Team& team_;
  kernels::CacheType cache_type_;
  Rotary rotary_;
  std::int64_t head_width_, hidden_width_;
  std::span<const TokenRow> rows_;

  kernels::AlignedMemory memory_, tables_;
  std::int64_t table_stride_ = 0;
  std::vector<kernels::AlignedMemory> scores_;  // one per member
  // [kMaxRows, …] each
  float *residual_, *hidden_, *queries_, *keys_, *values_, *rotated_, *mixed_, *gate_, *up_,
      *product_, *angles_;
};

}  // namespace fbi::infer
