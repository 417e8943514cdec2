#include "infer/key_value_cache.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace fbi::infer {

KeyValueCache::KeyValueCache(const config::ModelConfig& model, kernels::CacheType type,
                             std::int64_t most)
    : layers_(model.num_hidden_layers),
      heads_(model.num_key_value_heads),
      head_bytes_(kernels::padded_head(model.head_dim) * kernels::size_of(type)),
      most_(most) {}

KeyValueCache::KeyValueCache(const KeyValueCache& shape, std::int64_t most)
    : layers_(shape.layers_), heads_(shape.heads_), head_bytes_(shape.head_bytes_), most_(most) {}

void KeyValueCache::reserve(std::int64_t positions) {
  if (positions <= capacity_) return;
  constexpr std::int64_t kRoom = 128;  // else the first token behind a prompt would move it all
  const std::int64_t wanted = std::max(positions + kRoom, 2 * capacity_);
  const std::int64_t capacity = std::max(positions, std::min(wanted, most_));
  kernels::AlignedMemory memory(
      static_cast<std::size_t>(2 * layers_ * heads_ * capacity * head_bytes_));
  copy_runs(memory.data(), capacity, capacity_);
  memory_ = std::move(memory);
  capacity_ = capacity;
}

void KeyValueCache::copy(const SequenceCache& other, std::int64_t positions) {
  static_cast<const KeyValueCache&>(other).copy_runs(memory_.data(), capacity_, positions);
}

std::unique_ptr<SequenceCache> KeyValueCache::trimmed(std::int64_t positions) const {
  std::unique_ptr<KeyValueCache> part(new KeyValueCache(*this, positions));
  part->reserve(positions);
  part->copy(*this, positions);
  return part;
}

void KeyValueCache::copy_runs(std::byte* to, std::int64_t to_capacity,
                              std::int64_t positions) const {
  if (positions == 0) return;
  for (std::int64_t run = 0; run < 2 * layers_ * heads_; ++run) {
    std::memcpy(to + run * to_capacity * head_bytes_,
                memory_.data() + run * capacity_ * head_bytes_,
                static_cast<std::size_t>(positions * head_bytes_));
  }
}

}  // namespace fbi::infer
