#include "data/shard_source.h"

#include "fbi/core/error.h"

namespace fbi::data {

void ShardSource::read(std::int64_t sample, std::span<std::int32_t> out) const {
  verify();
  shard_.read(static_cast<std::uint64_t>(sample), out);
}

void ShardSource::verify() const {
  std::call_once(verified_, [this] { formats::TokenShard(path_, true); });
}

std::string ShardSource::describe() const {
  return concat(path_.string(), ": ", sample_count(), " samples of ", ids_per_sample(),
                " ids, vocabulary ", info().vocab_size);
}

std::unique_ptr<SampleSource> open_token_shard(const std::filesystem::path& path) {
  return std::make_unique<ShardSource>(path);
}

}  // namespace fbi::data
