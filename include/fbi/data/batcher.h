#pragma once

#include <cstdint>
#include <future>
#include <span>
#include <vector>

#include "fbi/data/training_data.h"

namespace fbi::data {

/// Positions [first, first + count) in the order of samples.
struct SampleRange {
  std::int64_t first = 0;
  std::int64_t count = 0;
  bool operator==(const SampleRange&) const = default;
};

/// What rank `rank` of `world` reads in micro-step `micro_step` of the step that begins at
/// `step_position`: the step's samples are dealt out micro-batch by micro-batch, over the ranks
/// first, then over the micro-steps.
SampleRange micro_batch_range(std::int64_t step_position, std::int64_t micro_step,
                              std::int64_t rank, std::int64_t world, std::int64_t micro_batch);

/// Reads micro-batches and, meanwhile, the one that will be asked for next. What is read never
/// depends on that. `data` must outlive it. Not thread-safe.
class Batcher {
 public:
  /// One thread at a time reads the range that follows at a distance of `world` micro-batches.
  Batcher(const TrainingData& data, std::int64_t world);
  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;

  /// ids [range.count, data.ids_per_sample()]. Throws as TrainingData::read.
  void read(SampleRange range, std::span<std::int32_t> ids);

 private:
  std::vector<std::int32_t> load(SampleRange range) const;

  const TrainingData& data_;
  std::int64_t world_;
  SampleRange next_range_;
  std::future<std::vector<std::int32_t>> next_;  ///< ids of next_range_, or its error
};

}  // namespace fbi::data
