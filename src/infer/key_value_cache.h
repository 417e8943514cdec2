#pragma once

#include <cstddef>
#include <cstdint>

#include "fbi/config/run_config.h"
#include "fbi/kernels/aligned_memory.h"
#include "fbi/kernels/decode.h"
#include "infer/forward.h"

namespace fbi::infer {

/// On the processor: [layer][keys, values][key/value head][position][padded head]; grows as the
/// sequence does. One piece of memory, so that it lies in huge pages: each token comes by all of
/// it, in runs of some kilobytes.
class KeyValueCache final : public SequenceCache {
 public:
  KeyValueCache(const config::ModelConfig& model, kernels::CacheType type, std::int64_t most);

  void reserve(std::int64_t positions) override;
  void copy(const SequenceCache& other, std::int64_t positions) override;
  std::uint64_t bytes() const override { return memory_.size(); }
  std::uint64_t position_bytes() const override {
    return static_cast<std::uint64_t>(2 * layers_ * heads_ * head_bytes_);
  }
  std::unique_ptr<SequenceCache> trimmed(std::int64_t positions) const override;

  std::byte* key(std::int64_t layer, std::int64_t head, std::int64_t position) {
    return memory_.data() + offset(2 * layer, head, position);
  }
  std::byte* value(std::int64_t layer, std::int64_t head, std::int64_t position) {
    return memory_.data() + offset(2 * layer + 1, head, position);
  }

 private:
  std::int64_t offset(std::int64_t part, std::int64_t head, std::int64_t position) const {
    return ((part * heads_ + head) * capacity_ + position) * head_bytes_;
  }

  void copy_runs(std::byte* to, std::int64_t to_capacity, std::int64_t positions) const;

  KeyValueCache(const KeyValueCache& shape, std::int64_t most);

  std::int64_t layers_, heads_, head_bytes_, most_;
  std::int64_t capacity_ = 0;
  kernels::AlignedMemory memory_;
};

}  // namespace fbi::infer
