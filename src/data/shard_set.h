#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fbi/data/prepare.h"
#include "fbi/formats/token_shard.h"

namespace fbi::data {

/// Writes a stream of documents as samples into shards PREFIX-00000.tokens, PREFIX-00001.tokens, …
class ShardSet {
 public:
  ShardSet(std::filesystem::path folder, std::string prefix, formats::TokenShardInfo info,
           std::uint64_t max_shard_bytes);
  void add(std::span<const std::int32_t> document);
  /// Completes the last shard; the ids left over are counted as dropped.
  PreparedPart finish();

 private:
  void write_sample(std::span<const std::int32_t> sample);

  std::filesystem::path folder_;
  std::string prefix_;
  formats::TokenShardInfo info_;
  std::int64_t samples_per_shard_;
  std::optional<formats::TokenShardWriter> writer_;
  std::int64_t samples_in_shard_ = 0;
  std::vector<std::int32_t> pending_;  // fewer ids than a sample between calls
  PreparedPart part_;
};

}  // namespace fbi::data
