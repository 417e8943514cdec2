#include "fbi/data/batcher.h"

#include <gmock/gmock.h>

#include <map>
#include <set>

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
  const std::filesystem::path& path() const override { return path_; }

 private:
  std::int64_t file_, count_, broken_;
  std::filesystem::path path_ = "fake";
};

std::unique_ptr<TrainingData> fake_data(std::int64_t broken = -1,
                                        std::vector<Corpus> corpora = {}) {
  std::vector<std::unique_ptr<SampleSource>> files;
  files.push_back(std::make_unique<FakeSource>(0, 13, broken));
  files.push_back(nullptr);
  files.push_back(std::make_unique<FakeSource>(2, 5));
  return std::make_unique<TrainingData>(std::move(files), 3, "", std::move(corpora));
}

/// Files 0 and 1 with 13 samples, 3 of 5, beside file 2 with 5 samples.
std::unique_ptr<TrainingData> mixed_data() {
  return fake_data(-1, {{"a", 0.6, 2}, {"b", 0.4, 1}});
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

void expect_same_ids_for_any_shape(const std::unique_ptr<TrainingData>& data) {
  const auto expected = samples(*data, 0, 72);
  for (const std::int64_t world : {1, 2, 3}) {
    for (const std::int64_t micro_batch : {1, 4, 12}) {
      const std::int64_t steps = 72 / (world * micro_batch);
      std::vector<std::int32_t> ids(72 * 2);
      for (std::int64_t rank = 0; rank < world; ++rank) {
        Batcher batcher(*data, world);
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

TEST(Batcher, IdsDoNotDependOnBatchShapeWorldSizeOrReadingAhead) {
  expect_same_ids_for_any_shape(fake_data());  // four epochs of 18, across ends of files
  expect_same_ids_for_any_shape(mixed_data());
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

/// Samples of one file in the order of a run.
std::vector<SampleId> of_file(const TrainingData& data, std::int64_t file, std::int64_t count) {
  std::vector<SampleId> ids;
  for (std::int64_t p = 0; std::ssize(ids) < count; ++p)
    if (const SampleId id = data.sample_at(p); id.file == file) ids.push_back(id);
  return ids;
}

TEST(TrainingData, MixedCorporaAreEachReadInTheirOwnOrder) {
  const auto mixed = mixed_data();
  EXPECT_EQ(mixed->samples_per_epoch(0), 13);
  EXPECT_EQ(mixed->samples_per_epoch(1), 5);
  EXPECT_EQ(mixed->mixture().period(), 5);
  // What is mixed is how the files take turns, not what is read of each.
  EXPECT_EQ(of_file(*mixed, 0, 40), of_file(*fake_data(), 0, 40));
  EXPECT_EQ(of_file(*mixed, 2, 40), of_file(*fake_data(), 2, 40));
}

TEST(TrainingData, ASmallCorpusBeginsItsEpochsInANewOrder) {
  const auto ids = of_file(*mixed_data(), 2, 15);
  std::set<std::vector<std::int64_t>> orders;
  for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<std::int64_t> order;
    for (std::int64_t k = 0; k < 5; ++k) {
      EXPECT_EQ(ids[epoch * 5 + k].epoch, epoch);
      order.push_back(ids[epoch * 5 + k].sample);
    }
    EXPECT_THAT(order, ::testing::UnorderedElementsAre(0, 1, 2, 3, 4));
    orders.insert(order);
  }
  EXPECT_EQ(orders.size(), 3u);
}

// As before there were weights: nothing is mixed without them.
TEST(TrainingData, WithoutWeightsFilesFollowOneAnother) {
  const auto data = fake_data();
  const SampleOrder order(
      3,
      [](std::int64_t file) {
        return std::vector<std::int64_t>{13, 0, 5}[file];
      },
      3);
  for (std::int64_t p = 0; p < 60; ++p) EXPECT_EQ(data->sample_at(p), order.at(p));
}

TEST(TrainingData, ACorpusWithoutSamplesIsAnErrorWhenItsTurnComes) {
  const auto data = fake_data(-1, {{"a", 1, 1}, {"empty", 1, 1}, {"b", 1, 1}});
  EXPECT_NO_THROW(data->sample_at(0));
  test::expect_error<DataError>([&] { data->sample_at(1); }, "no samples");
}

}  // namespace
}  // namespace fbi::data
