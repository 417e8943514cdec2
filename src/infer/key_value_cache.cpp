#include "infer/key_value_cache.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace fbi::infer {

KeyValueCache::KeyValueCache(const config::ModelConfig& model, kernels::CacheType type)
    : layers_(model.num_hidden_layers),
      heads_(model.num_key_value_heads),
      limit_(model.max_position_embeddings),
      position_bytes_(kernels::padded_head(model.head_dim) * kernels::size_of(type)) {}

void KeyValueCache::reserve(std::int64_t positions) {
  if (positions <= capacity_) return;
  constexpr std::int64_t kRoom = 128;  // else the first token behind a prompt would move it all
  const std::int64_t wanted = std::max(positions + kRoom, 2 * capacity_);
  const std::int64_t capacity = std::max(positions, std::min(wanted, limit_));
  kernels::AlignedMemory memory(
      static_cast<std::size_t>(2 * layers_ * heads_ * capacity * position_bytes_));
  copy_runs(memory.data(), capacity, capacity_);
  memory_ = std::move(memory);
  capacity_ = capacity;
}

void KeyValueCache::copy(const SequenceCache& other, std::int64_t positions) {
  static_cast<const KeyValueCache&>(other).copy_runs(memory_.data(), capacity_, positions);
}

void KeyValueCache::copy_runs(std::byte* to, std::int64_t to_capacity,
                              std::int64_t positions) const {
  if (positions == 0) return;
  for (std::int64_t run = 0; run < 2 * layers_ * heads_; ++run) {
    std::memcpy(to + run * to_capacity * position_bytes_,
                memory_.data() + run * capacity_ * position_bytes_,
                static_cast<std::size_t>(positions * position_bytes_));
  }
}

}  // namespace fbi::infer
