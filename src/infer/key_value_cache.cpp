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
  const std::int64_t runs = 2 * layers_ * heads_, run_bytes = capacity_ * position_bytes_;
  kernels::AlignedMemory memory(static_cast<std::size_t>(runs * capacity * position_bytes_));
  for (std::int64_t run = 0; run < runs && run_bytes > 0; ++run) {
    std::memcpy(memory.data() + run * capacity * position_bytes_, memory_.data() + run * run_bytes,
                static_cast<std::size_t>(run_bytes));
  }
  memory_ = std::move(memory);
  capacity_ = capacity;
}

}  // namespace fbi::infer
