#pragma once

#include <mutex>

#include "fbi/data/sample_source.h"
#include "fbi/formats/token_shard.h"

namespace fbi::data {

class ShardSource final : public SampleSource {
 public:
  explicit ShardSource(const std::filesystem::path& path) : path_(path), shard_(path) {}

  const formats::TokenShardInfo& info() const { return shard_.info(); }
  std::int64_t sample_count() const override {
    return static_cast<std::int64_t>(info().sample_count);
  }
  std::int64_t ids_per_sample() const override { return info().ids_per_sample; }
  void read(std::int64_t sample, std::span<std::int32_t> out) const override;
  const std::filesystem::path& path() const override { return path_; }

 private:
  std::filesystem::path path_;
  formats::TokenShard shard_;
  mutable std::once_flag verified_;  // the hash
};

}  // namespace fbi::data
