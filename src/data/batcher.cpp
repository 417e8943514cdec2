#include "fbi/data/batcher.h"

#include <algorithm>

#include "fbi/core/error.h"

namespace fbi::data {

SampleRange micro_batch_range(std::int64_t step_position, std::int64_t micro_step,
                              std::int64_t rank, std::int64_t world, std::int64_t micro_batch) {
  return {step_position + (micro_step * world + rank) * micro_batch, micro_batch};
}

Batcher::Batcher(const TrainingData& data, std::int64_t world) : data_(data), world_(world) {}

std::vector<std::int32_t> Batcher::load(SampleRange range) const {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(range.count * data_.ids_per_sample()));
  data_.read(range.first, range.count, ids);
  return ids;
}

void Batcher::read(SampleRange range, std::span<std::int32_t> ids) {
  if (next_.valid() && next_range_ == range) {
    const auto ready = next_.get();
    if (ready.size() != ids.size()) {
      throw UsageError(concat("expected room for ", ready.size(), " ids, found ", ids.size()));
    }
    std::copy(ready.begin(), ready.end(), ids.begin());
  } else {
    data_.read(range.first, range.count, ids);
  }
  next_range_ = {range.first + world_ * range.count, range.count};
  next_ = std::async(std::launch::async, [this, next = next_range_] { return load(next); });
}

}  // namespace fbi::data
