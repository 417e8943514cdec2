#include "fbi/data/sample_order.h"

#include <algorithm>
#include <iterator>

#include "fbi/core/error.h"
#include "fbi/core/hash.h"
#include "fbi/core/random.h"

namespace fbi::data {

SampleOrder::SampleOrder(std::int64_t files, std::function<std::int64_t(std::int64_t)> sample_count,
                         std::uint64_t seed, std::int64_t first_file)
    : files_(files), first_file_(first_file), sample_count_(std::move(sample_count)), seed_(seed) {}

bool SampleOrder::count_next_file() const {
  if (std::ssize(ends_) == files_) return false;
  const std::int64_t before = ends_.empty() ? 0 : ends_.back();
  ends_.push_back(before + sample_count_(first_file_ + std::ssize(ends_)));
  return true;
}

std::int64_t SampleOrder::samples_per_epoch() const {
  const std::lock_guard lock(mutex_);
  while (count_next_file()) {
  }
  return ends_.empty() ? 0 : ends_.back();
}

SampleId SampleOrder::at(std::int64_t position) const {
  if (position < 0) throw UsageError(concat("expected a position of at least 0, found ", position));
  const std::lock_guard lock(mutex_);
  while ((ends_.empty() || ends_.back() <= position) && count_next_file()) {
  }
  const std::int64_t counted = ends_.empty() ? 0 : ends_.back();
  if (counted == 0) throw DataError("the training data has no samples");
  // A position behind the counted files means that all are counted.
  const std::int64_t epoch = position / counted;
  const std::int64_t in_epoch = position % counted;
  const auto end = std::upper_bound(ends_.begin(), ends_.end(), in_epoch);
  const std::int64_t begin = end == ends_.begin() ? 0 : *std::prev(end);
  const std::int64_t file = first_file_ + (end - ends_.begin());
  const std::uint64_t key = hash64(concat("order of samples ", seed_, ' ', epoch, ' ', file));
  const KeyedPermutation permutation(static_cast<std::uint64_t>(*end - begin), key);
  return {epoch, file,
          static_cast<std::int64_t>(permutation(static_cast<std::uint64_t>(in_epoch - begin)))};
}

}  // namespace fbi::data
