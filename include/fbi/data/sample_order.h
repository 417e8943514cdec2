#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

namespace fbi::data {

struct SampleId {
  std::int64_t epoch = 0;
  std::int64_t file = 0;    ///< position in the list of files, skipped ones counted
  std::int64_t sample = 0;  ///< line of a JSON file, sample of a shard; counted from 0
  bool operator==(const SampleId&) const = default;
};

/// The order of samples of a corpus as a pure function of (seed, position): files in their order,
/// the samples of a file permuted by a keyed bijection of (seed, epoch, file), epoch after epoch.
/// Thread-safe.
class SampleOrder {
 public:
  /// Of files [first_file, first_file + files). `sample_count(file)` is asked at most once per
  /// file, and only when a position at or behind that file is.
  SampleOrder(std::int64_t files, std::function<std::int64_t(std::int64_t file)> sample_count,
              std::uint64_t seed, std::int64_t first_file = 0);

  SampleId at(std::int64_t position) const;  ///< DataError when there is no sample at all
  std::int64_t samples_per_epoch() const;    ///< counts all files

 private:
  bool count_next_file() const;  ///< false when all are counted

  std::int64_t files_;
  std::int64_t first_file_;
  std::function<std::int64_t(std::int64_t)> sample_count_;
  std::uint64_t seed_;
  mutable std::mutex mutex_;
  /// Samples of an epoch up to and with each counted file.
  mutable std::vector<std::int64_t> ends_;
};

}  // namespace fbi::data
