#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "infer/forward.h"
#include "infer/key_value_cache.h"
#include "infer/packed_weights.h"
#include "infer/rotary.h"
#include "infer/team.h"

namespace fbi::infer {

/// Forward on the processor: all members of the team run one function in step.
class CpuForward final : public Forward {
 public:
  CpuForward(std::unique_ptr<ModelParts> parts, const PackedOptions& options, Team& team);

  std::unique_ptr<SequenceCache> new_cache(std::int64_t most) override;
  void run(std::span<const TokenRow> rows) override;
  void logits(std::int64_t first, std::int64_t count, float* out) override;
  void logits_to_draw(std::int64_t first, std::span<const eval::Drawable> drawable,
                      float* out) override;
  double head_bytes_to_draw() const override;
  double read_bandwidth(std::uint64_t bytes) override;

 private:
  /// States to draw from for which the head is screened, at most: the work of each is done twice
  /// then, while the head is read but once for all.
  static constexpr std::int64_t kScreenedStates = 4;

  /// Who makes norms and tables, and where: the team in step, or each member for itself.
  struct Maker {
    Member member;
    float* hidden;
    std::byte* tables;
    std::int64_t rows;  // of each table
  };
  /// A product on its way: where its table is and its result goes.
  struct Item {
    const kernels::BinaryLinear* linear;
    float* out;
    std::int64_t stride;
    std::byte* tables;
  };
  class Pieces;

  void place_scratch();
  void layer(const Member& member, std::int64_t index);
  void attention(const Member& member, std::int64_t index);
  void store_keys_and_values(const Member& member, std::int64_t index);
  void attend(const Member& member, std::int64_t index);
  std::int64_t following_rows(std::int64_t t, std::int64_t most) const;
  Maker maker(const Member& member);
  void norm(const Maker& maker, const std::vector<float>& weight);
  void prepare(const Maker& maker, const Item& item, const float* x, std::int64_t x_stride);
  static void multiply(const Item& item, const Pieces& pieces, std::int64_t piece);
  void screened_logits(const float* x, std::span<const eval::Drawable> drawable, float* out);
  void add_to_residual(const Member& member, const Item& item);
  Item item(const Maker& maker, const kernels::BinaryLinear& linear, float* out, int table) const;

  PackedWeights weights_;
  const config::ModelConfig& model_;
  Team& team_;
  kernels::CacheType cache_type_;
  Rotary rotary_;
  std::int64_t head_width_, hidden_width_;
  std::span<const TokenRow> rows_;

  kernels::AlignedMemory memory_, tables_;
  std::int64_t makers_, table_bytes_ = 0;       // of one row, at most
  std::vector<kernels::AlignedMemory> scores_;  // one per member
  HeadScreen::Search searches_[kScreenedStates];
  std::int64_t unscreened_ = 0;  // states that will not be screened
  std::int64_t drawn_ = 0, drawn_bytes_ = 0;
  // [kMaxRows, …] each; hidden_ [makers_, kMaxRows, …]
  float *residual_, *hidden_, *queries_, *keys_, *values_, *rotated_, *mixed_, *gate_, *up_,
      *product_, *angles_;
};

}  // namespace fbi::infer
