#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "infer/batch.h"

namespace fbi::infer {

/// Keys and values of texts that have ended, for prompts that begin like them. When there is no
/// room, those go that were not used for longest.
class PrefixCache {
 public:
  explicit PrefixCache(std::uint64_t limit_bytes) : limit_(limit_bytes) {}

  /// Takes what an ended text has fed, or what there is room for of it, unless there is as much
  /// already. Its cache may be gone then.
  void keep(Sequence& ended);
  struct Found {
    const Prefix* prefix = nullptr;  ///< null where nothing has enough; valid until keep()
    std::int64_t shared = 0;         ///< Sequence::shared_with of it
  };
  /// What has most of the sequence's prompt.
  Found find(const Sequence& sequence);

  /// Frees the memory of what was not used for longest; false: nothing is kept.
  bool give_up();

  std::uint64_t bytes() const { return bytes_; }

 private:
  struct Kept {
    std::vector<std::int32_t> ids;
    std::unique_ptr<SequenceCache> cache;
    std::vector<TokenScore> scores;
    Prefix prefix;
  };
  void drop(std::list<Kept>::iterator kept);

  std::uint64_t limit_, bytes_ = 0;
  std::list<Kept> kept_;  // what was used last first
};

}  // namespace fbi::infer
