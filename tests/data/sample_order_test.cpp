#include "fbi/data/sample_order.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <set>
#include <vector>

#include "fbi/core/error.h"
#include "support/expect_error.h"

namespace fbi::data {
namespace {

SampleOrder order_of(std::vector<std::int64_t> counts, std::uint64_t seed = 0) {
  const auto files = std::ssize(counts);
  return {files, [counts = std::move(counts)](std::int64_t file) { return counts[file]; }, seed};
}

std::vector<std::int64_t> samples_of(const SampleOrder& order, std::int64_t first,
                                     std::int64_t count) {
  std::vector<std::int64_t> samples;
  for (std::int64_t k = 0; k < count; ++k) samples.push_back(order.at(first + k).sample);
  return samples;
}

TEST(SampleOrder, FilesInOrderEachSampleOnceInEveryEpoch) {
  const std::vector<std::int64_t> counts = {7, 1, 64, 65};
  const auto order = order_of(counts);
  EXPECT_EQ(order.samples_per_epoch(), 137);
  std::int64_t position = 0;
  for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
    for (std::int64_t file = 0; file < 4; ++file) {
      std::set<std::int64_t> seen;
      for (std::int64_t k = 0; k < counts[file]; ++k) {
        const SampleId id = order.at(position++);
        EXPECT_EQ(id.epoch, epoch);
        EXPECT_EQ(id.file, file);
        EXPECT_GE(id.sample, 0);
        EXPECT_LT(id.sample, counts[file]);
        seen.insert(id.sample);
      }
      EXPECT_EQ(std::ssize(seen), counts[file]);
    }
  }
}

TEST(SampleOrder, DependsOnSeedEpochAndFile) {
  const auto order = order_of({50, 50});
  const auto first = samples_of(order, 0, 50);
  EXPECT_NE(first, samples_of(order, 50, 50)) << "file";
  EXPECT_NE(first, samples_of(order, 100, 50)) << "epoch";
  EXPECT_NE(first, samples_of(order_of({50, 50}, 1), 0, 50)) << "seed";
  EXPECT_EQ(first, samples_of(order_of({50, 50}), 0, 50));
  std::vector<std::int64_t> sorted = first;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_NE(first, sorted) << "not permuted at all";
}

TEST(SampleOrder, DoesNotDependOnWhatWasAskedBefore) {
  const auto forward = order_of({9, 4, 11});
  const auto backward = order_of({9, 4, 11});
  std::vector<SampleId> ids;
  for (std::int64_t p = 0; p < 60; ++p) ids.push_back(forward.at(p));
  for (std::int64_t p = 59; p >= 0; --p) EXPECT_EQ(backward.at(p), ids[p]) << p;
}

TEST(SampleOrder, ASkippedFileLeavesTheOrderInOthersAlone) {
  const auto all = order_of({9, 4, 11});
  const auto skipped = order_of({9, 0, 11});
  EXPECT_EQ(skipped.samples_per_epoch(), 20);
  EXPECT_EQ(samples_of(all, 0, 9), samples_of(skipped, 0, 9));
  EXPECT_EQ(samples_of(all, 13, 11), samples_of(skipped, 9, 11));
  EXPECT_EQ(skipped.at(9).file, 2);
  EXPECT_EQ(skipped.at(20), (SampleId{1, 0, skipped.at(20).sample}));
}

TEST(SampleOrder, FilesAreCountedOnlyWhenReached) {
  std::vector<std::int64_t> asked;
  const SampleOrder order(
      3,
      [&asked](std::int64_t file) {
        asked.push_back(file);
        return 5;
      },
      0);
  order.at(4);
  EXPECT_THAT(asked, ::testing::ElementsAre(0));
  order.at(5);
  order.at(1);
  EXPECT_THAT(asked, ::testing::ElementsAre(0, 1));
  order.samples_per_epoch();
  order.at(100);
  EXPECT_THAT(asked, ::testing::ElementsAre(0, 1, 2));
}

TEST(SampleOrder, FarPositionsAreReachedAtOnce) {
  const auto order = order_of({1'706'976, 1'706'976});
  const std::int64_t position = 4'000'000'000'000'000;
  const SampleId id = order.at(position);
  EXPECT_EQ(id.epoch, position / 3'413'952);
  EXPECT_EQ(id.file, position % 3'413'952 / 1'706'976);
}

// The order is part of the format of a run: a resumed run must go on with it, so it may never
// change.
TEST(SampleOrder, StaysAsItWasFirstReleased) {
  const auto order = order_of({1000, 10}, 42);
  EXPECT_THAT(samples_of(order, 0, 6), ::testing::ElementsAre(290, 992, 186, 965, 484, 739));
  EXPECT_THAT(samples_of(order, 1000, 10), ::testing::ElementsAre(0, 9, 3, 2, 5, 7, 6, 4, 1, 8));
  EXPECT_THAT(samples_of(order, 1010, 6), ::testing::ElementsAre(802, 461, 270, 72, 302, 76));
}

TEST(SampleOrder, NoSamplesAndNegativePositionsAreErrors) {
  test::expect_error<DataError>([] { order_of({}).at(0); }, "no samples");
  test::expect_error<DataError>([] { order_of({0, 0}).at(7); }, "no samples");
  test::expect_error<UsageError>([] { order_of({5}).at(-1); }, "-1");
}

}  // namespace
}  // namespace fbi::data
