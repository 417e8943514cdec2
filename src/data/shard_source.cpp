#include "data/shard_source.h"

namespace fbi::data {

void ShardSource::read(std::int64_t sample, std::span<std::int32_t> out) const {
  std::call_once(verified_, [this] { formats::TokenShard(path_, true); });
  shard_.read(static_cast<std::uint64_t>(sample), out);
}

}  // namespace fbi::data
