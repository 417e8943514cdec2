#pragma once

#include <memory>
#include <utility>

#include "fbi/estimate/estimate.h"

namespace fbi::estimate {

/// Counts bytes while a step is walked through in the order of its code, as an allocator would, and
/// keeps the highest total of each phase.
class MemoryLedger {
  struct Block {
    MemoryLedger& ledger;
    std::size_t kind;
    std::int64_t bytes;
    Block(MemoryLedger& owner, MemoryKind of, std::int64_t size)
        : ledger(owner), kind(static_cast<std::size_t>(of)), bytes(size) {
      ledger.add(kind, bytes);
    }
    ~Block() { ledger.add(kind, -bytes); }
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;
  };

 public:
  /// Stands for a tensor: copies share its memory, which is free again when the last one goes.
  using Buffer = std::shared_ptr<const Block>;

  MemoryLedger() = default;
  MemoryLedger(const MemoryLedger&) = delete;  // blocks hold its address
  MemoryLedger& operator=(const MemoryLedger&) = delete;

  Buffer make(MemoryKind kind, std::int64_t bytes) {
    return std::make_shared<const Block>(*this, kind, bytes);
  }
  /// From here on the maximum counts for this phase.
  void begin(std::string phase) { phases_.push_back({std::move(phase), now_}); }
  const MemoryByKind& now() const { return now_; }
  const std::vector<MemoryPhase>& phases() const { return phases_; }

 private:
  void add(std::size_t kind, std::int64_t bytes) {
    now_[kind] += bytes;
    if (bytes > 0 && !phases_.empty() && total_bytes(now_) > total_bytes(phases_.back().bytes))
      phases_.back().bytes = now_;
  }

  MemoryByKind now_{};
  std::vector<MemoryPhase> phases_;
};

}  // namespace fbi::estimate
