#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "fbi/config/run_config.h"
#include "fbi/kernels/aligned_memory.h"
#include "fbi/kernels/decode.h"

namespace fbi::infer {

/// Keys and values of one sequence, [layer][key/value head][position][padded head]; grows as the
/// sequence does.
class KeyValueCache {
 public:
  KeyValueCache(const config::ModelConfig& model, kernels::CacheType type);

  kernels::CacheType type() const { return type_; }
  /// Makes room for that many positions; what is stored stays.
  void reserve(std::int64_t positions);
  std::size_t bytes() const;

  std::byte* key(std::int64_t layer, std::int64_t head, std::int64_t position) {
    return layers_[layer].keys.data() + offset(head, position);
  }
  std::byte* value(std::int64_t layer, std::int64_t head, std::int64_t position) {
    return layers_[layer].values.data() + offset(head, position);
  }

 private:
  struct Layer {
    kernels::AlignedMemory keys, values;
  };
  std::int64_t offset(std::int64_t head, std::int64_t position) const {
    return (head * capacity_ + position) * position_bytes_;
  }
  kernels::AlignedMemory grown(const kernels::AlignedMemory& from, std::int64_t capacity) const;

  kernels::CacheType type_;
  std::int64_t heads_, limit_, position_bytes_;
  std::int64_t capacity_ = 0;
  std::vector<Layer> layers_;
};

}  // namespace fbi::infer
