#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "fbi/config/run_config.h"
#include "fbi/kernels/aligned_memory.h"
#include "fbi/kernels/decode.h"
#include "infer/forward.h"

namespace fbi::infer {

/// On the processor: [layer][key/value head][position][padded head]; grows as the sequence does.
class KeyValueCache final : public SequenceCache {
 public:
  KeyValueCache(const config::ModelConfig& model, kernels::CacheType type);

  void reserve(std::int64_t positions) override;
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
