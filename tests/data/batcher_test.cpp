#include "fbi/data/batcher.h"

#include <gmock/gmock.h>

#include <map>

#include "fbi/core/error.h"
#include "support/expect_error.h"

namespace fbi::data {
namespace {

/// Sample k of file f holds f * 1000 + k and its negative; sample `broken` can't be read.
class FakeSource final : public SampleSource {
 public:
  FakeSource(std::int64_t file, std::int64_t count, std::int64_t broken = -1)
      : file_(file), count_(count), broken_(broken) {}
  std::int64_t sample_count() const override { return count_; }
  std::int64_t ids_per_sample() const override { return 2; }
  void read(std::int64_t sample, std::span<std::int32_t> out) const override {
    if (sample == broken_) throw DataError("broken sample");
    out[0] = static_cast<std::int32_t>(file_ * 1000 + sample);
    out[1] = -out[0];
  }
  void verify() const override {}
  const std::filesystem::path& path() const override { return path_; }
  std::string describe() const override { return "fake"; }

 private:
  std::int64_t file_, count_, broken_;
  std::filesystem::path path_ = "fake";
};

std::unique_ptr<TrainingData> fake_data(std::int64_t broken = -1) {
  std::vector<std::unique_ptr<SampleSource>> files;
  files.push_back(std::make_unique<FakeSource>(0, 13, broken));
  files.push_back(nullptr);
  files.push_back(std::make_unique<FakeSource>(2, 5));
  return std::make_unique<TrainingData>(std::move(files), 3);
}

std::vector<std::int32_t> read(Batcher& batcher, SampleRange range) {
  std::vector<std::int32_t> ids(range.count * 2);
  batcher.read(range, ids);
  return ids;
}

std::vector<std::int32_t> samples(const TrainingData& data, std::int64_t first,
                                  std::int64_t count) {
  std::vector<std::int32_t> ids(count * data.ids_per_sample());
  data.read(first, count, ids);
  return ids;
}

TEST(MicroBatchRange, DealsMicroBatchesToRanksThenMicroSteps) {
  EXPECT_EQ(micro_batch_range(100, 0, 0, 1, 4), (SampleRange{100, 4}));
  EXPECT_EQ(micro_batch_range(100, 0, 1, 2, 4), (SampleRange{104, 4}));
  EXPECT_EQ(micro_batch_range(100, 1, 0, 2, 4), (SampleRange{108, 4}));
  EXPECT_EQ(micro_batch_range(100, 2, 1, 2, 4), (SampleRange{120, 4}));
}

TEST(MicroBatchRange, CoversAStepOnceForAnyShape) {
  constexpr std::int64_t kGlobalBatch = 24;
  for (const std::int64_t world : {1, 2, 3, 4}) {
    for (const std::int64_t micro_batch : {1, 2, 6}) {
      const std::int64_t micro_steps = kGlobalBatch / (world * micro_batch);
      if (micro_steps * world * micro_batch != kGlobalBatch) continue;
      std::map<std::int64_t, int> seen;
      for (std::int64_t m = 0; m < micro_steps; ++m) {
        for (std::int64_t rank = 0; rank < world; ++rank) {
          const SampleRange range = micro_batch_range(48, m, rank, world, micro_batch);
          for (std::int64_t k = 0; k < range.count; ++k) ++seen[range.first + k];
        }
      }
      EXPECT_EQ(std::ssize(seen), kGlobalBatch);
      EXPECT_EQ(seen.begin()->first, 48);
      EXPECT_EQ(seen.rbegin()->first, 48 + kGlobalBatch - 1);
    }
  }
}

TEST(Batcher, IdsDoNotDependOnBatchShapeWorldSizeOrReadingAhead) {
  const auto data = fake_data();
  const auto expected = samples(*data, 0, 72);  // four epochs of 18, across ends of files
  for (const bool read_ahead : {false, true}) {
    for (const std::int64_t world : {1, 2, 3}) {
      for (const std::int64_t micro_batch : {1, 4, 12}) {
        const std::int64_t steps = 72 / (world * micro_batch);
        std::vector<std::int32_t> ids(72 * 2);
        for (std::int64_t rank = 0; rank < world; ++rank) {
          Batcher batcher(*data, world, read_ahead);
          for (std::int64_t m = 0; m < steps; ++m) {
            const SampleRange range = micro_batch_range(0, m, rank, world, micro_batch);
            const auto part = read(batcher, range);
            std::copy(part.begin(), part.end(), ids.begin() + range.first * 2);
          }
        }
        EXPECT_EQ(ids, expected) << "world " << world << " micro_batch " << micro_batch;
      }
    }
  }
}

TEST(Batcher, AnyRangeMayBeAskedForNext) {
  const auto data = fake_data();
  Batcher batcher(*data, 2);
  for (const SampleRange range : {SampleRange{0, 4}, SampleRange{8, 4}, SampleRange{3, 2},
                                  SampleRange{3, 2}, SampleRange{7, 2}, SampleRange{11, 5}}) {
    EXPECT_EQ(read(batcher, range), samples(*data, range.first, range.count));
  }
}

TEST(Batcher, AnErrorAheadComesWhenItsBatchIsAskedFor) {
  const auto data = fake_data(5);
  std::int64_t bad = 0;
  while (data->sample_at(bad) != SampleId{0, 0, 5}) ++bad;
  Batcher batcher(*data, 1);
  for (std::int64_t position = 0; position < bad; ++position)
    EXPECT_NO_THROW(read(batcher, {position, 1}));
  test::expect_error<DataError>([&] { read(batcher, {bad, 1}); }, "broken sample");
  EXPECT_EQ(read(batcher, {bad + 1, 1}), samples(*data, bad + 1, 1));
}

TEST(Batcher, TheBufferMustFit) {
  const auto data = fake_data();
  Batcher batcher(*data, 1);
  std::vector<std::int32_t> ids(5);
  test::expect_error<UsageError>([&] { batcher.read({0, 2}, ids); }, "found 5");
  EXPECT_EQ(read(batcher, {0, 2}), samples(*data, 0, 2));
  test::expect_error<UsageError>([&] { batcher.read({2, 2}, ids); }, "found 5");
}

TEST(TrainingData, SkippedFilesKeepTheirNumbers) {
  const auto data = fake_data();
  EXPECT_EQ(data->samples_per_epoch(), 18);
  EXPECT_EQ(data->sample_at(12).file, 0);
  EXPECT_EQ(data->sample_at(13).file, 2);
  EXPECT_EQ(data->sample_at(18).epoch, 1);
}

}  // namespace
}  // namespace fbi::data
