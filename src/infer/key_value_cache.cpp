#include "infer/key_value_cache.h"

#include <algorithm>
#include <cstring>

namespace fbi::infer {

KeyValueCache::KeyValueCache(const config::ModelConfig& model, kernels::CacheType type)
    : type_(type),
      heads_(model.num_key_value_heads),
      limit_(model.max_position_embeddings),
      position_bytes_(kernels::padded_head(model.head_dim) * kernels::size_of(type)),
      layers_(static_cast<std::size_t>(model.num_hidden_layers)) {}

void KeyValueCache::reserve(std::int64_t positions) {
  if (positions <= capacity_) return;
  constexpr std::int64_t kFirst = 128;
  const std::int64_t doubled = std::max({kFirst, positions, 2 * capacity_});
  const std::int64_t capacity = std::max(positions, std::min(doubled, limit_));
  std::vector<Layer> layers;
  for (const Layer& layer : layers_) {
    layers.push_back({grown(layer.keys, capacity), grown(layer.values, capacity)});
  }
  layers_ = std::move(layers);
  capacity_ = capacity;
}

kernels::AlignedMemory KeyValueCache::grown(const kernels::AlignedMemory& from,
                                            std::int64_t capacity) const {
  kernels::AlignedMemory to(static_cast<std::size_t>(heads_ * capacity * position_bytes_));
  const std::int64_t head_bytes = capacity_ * position_bytes_;
  for (std::int64_t head = 0; head < heads_ && head_bytes > 0; ++head) {
    std::memcpy(to.data() + head * capacity * position_bytes_, from.data() + head * head_bytes,
                static_cast<std::size_t>(head_bytes));
  }
  return to;
}

std::size_t KeyValueCache::bytes() const {
  std::size_t sum = 0;
  for (const Layer& layer : layers_) sum += layer.keys.size() + layer.values.size();
  return sum;
}

}  // namespace fbi::infer
