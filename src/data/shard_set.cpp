#include "data/shard_set.h"

#include <algorithm>
#include <cstdio>

namespace fbi::data {

ShardSet::ShardSet(std::filesystem::path folder, std::string prefix, formats::TokenShardInfo info,
                   std::uint64_t max_shard_bytes)
    : folder_(std::move(folder)), prefix_(std::move(prefix)), info_(std::move(info)) {
  const std::uint64_t sample_bytes =
      std::uint64_t{info_.ids_per_sample} * (info_.vocab_size <= 65536 ? 2 : 4);
  samples_per_shard_ =
      static_cast<std::int64_t>(std::max<std::uint64_t>(1, max_shard_bytes / sample_bytes));
}

void ShardSet::add(std::span<const std::int32_t> document) {
  ++part_.documents;
  part_.ids += std::ssize(document);
  pending_.insert(pending_.end(), document.begin(), document.end());
  std::span<const std::int32_t> rest = pending_;
  while (rest.size() >= info_.ids_per_sample) {
    write_sample(rest.first(info_.ids_per_sample));
    rest = rest.subspan(info_.ids_per_sample);
  }
  pending_.erase(pending_.begin(), pending_.end() - std::ssize(rest));
}

void ShardSet::write_sample(std::span<const std::int32_t> sample) {
  if (samples_in_shard_ == samples_per_shard_) {
    writer_->finish();
    writer_.reset();
    samples_in_shard_ = 0;
  }
  if (!writer_) {
    char number[32];
    std::snprintf(number, sizeof number, "-%05zu.tokens", part_.files.size());
    part_.files.push_back(prefix_ + number);
    writer_.emplace(folder_ / part_.files.back(), info_);
  }
  writer_->add(sample);
  ++samples_in_shard_;
  ++part_.samples;
}

PreparedPart ShardSet::finish() {
  if (writer_) writer_->finish();
  part_.dropped_ids = std::ssize(pending_);
  return part_;
}

}  // namespace fbi::data
