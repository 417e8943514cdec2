#include "infer/batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "infer/noted_forward.h"

namespace fbi::infer {
namespace {

using ::testing::ElementsAre;

class BatchTest : public ::testing::Test {
 protected:
  Sequence& add(std::int64_t prompt_tokens) {
    const GenerateOptions options = {.max_new_tokens = 1000, .sampling = {.temperature = 0}};
    Sequence& sequence = made_.add(std::vector<std::int32_t>(prompt_tokens, 3), options);
    all_.push_back(&sequence);
    return sequence;
  }
  /// The rows that each sequence got, in the order of add().
  std::vector<std::int64_t> step() {
    made_.forward.fed.clear();
    batch_.step(all_);
    std::vector<std::int64_t> rows;
    for (const auto& sequence : made_.all()) {
      rows.push_back(made_.forward.fed[sequence->cache.get()]);
    }
    return rows;
  }

  NotedSequences made_;
  SerialFor serial_;
  Batch batch_{made_.forward, kSmallVocab, serial_};
  std::vector<Sequence*> all_;
};

TEST_F(BatchTest, APromptAloneGetsAllRows) {
  add(150);
  EXPECT_THAT(step(), ElementsAre(64));
  EXPECT_THAT(step(), ElementsAre(64));
  EXPECT_THAT(step(), ElementsAre(22));
  EXPECT_THAT(step(), ElementsAre(1));
}

TEST_F(BatchTest, AShortPromptDoesNotWaitForALongOne) {
  add(30000);
  add(6);
  EXPECT_THAT(step(), ElementsAre(58, 6));
  EXPECT_THAT(step(), ElementsAre(64, 1));  // the second is being written
}

TEST_F(BatchTest, PromptsShareInWholeGroupsAndTheRestGoesToTheOldest) {
  add(1000);
  add(1000);
  EXPECT_THAT(step(), ElementsAre(32, 32));
  add(1000);
  EXPECT_THAT(step(), ElementsAre(32, 16, 16));
  add(1000);
  EXPECT_THAT(step(), ElementsAre(16, 16, 16, 16));
}

TEST_F(BatchTest, ALongPromptIsReadThoughShortOnesKeepComing) {
  Sequence& long_one = add(1000);
  for (int n = 0; n < 20 * 4; ++n) {
    add(6);
    if (n % 4 == 3) step();
  }
  EXPECT_GT(long_one.fed, 100);
}

TEST_F(BatchTest, OfManyPromptsEachGetsItsTurn) {
  constexpr std::int64_t kPrompts = 11, kSteps = 11;
  for (std::int64_t n = 0; n < kPrompts; ++n) add(1000);
  std::vector<std::int64_t> sums(kPrompts);
  for (std::int64_t n = 0; n < kSteps; ++n) {
    const auto rows = step();
    EXPECT_EQ(std::accumulate(rows.begin(), rows.end(), std::int64_t{0}), 64);
    for (std::size_t k = 0; k < rows.size(); ++k) sums[k] += rows[k];
    if (n == 2) EXPECT_EQ(std::ranges::count(sums, 0), 0);
  }
  EXPECT_EQ(sums, std::vector<std::int64_t>(kPrompts, 64));
}

TEST_F(BatchTest, FreesMemoryAsLongAsATextFindsNone) {
  int kept = 3;
  Batch batch(made_.forward, kSmallVocab, serial_, [&] {
    if (kept == 0) return false;
    --kept;
    made_.forward.most_positions += 20;
    return true;
  });
  made_.forward.most_positions = 10;
  Sequence& sequence = add(40);
  batch.step(all_);
  EXPECT_EQ(sequence.fed, 40);
  EXPECT_EQ(sequence.error, nullptr);
  EXPECT_EQ(kept, 1);

  made_.forward.most_positions = 50;
  kept = 0;
  add(200);
  batch.step(all_);
  ASSERT_NE(all_[1]->error, nullptr);
  EXPECT_THROW(std::rethrow_exception(all_[1]->error), std::bad_alloc);
  EXPECT_EQ(sequence.error, nullptr) << "what has memory goes on";
}

TEST_F(BatchTest, APromptThatAnotherHasReadIsTakenOver) {
  Sequence& reader = add(100);
  Sequence& other = add(100);
  all_.pop_back();
  EXPECT_TRUE(reader.unread());
  EXPECT_THAT(step(), ElementsAre(64, 0));
  EXPECT_THAT(step(), ElementsAre(36, 0));
  EXPECT_TRUE(other.unread());
  const Prefix prefix = reader.prefix();
  other.take(prefix, other.shared_with(prefix));
  EXPECT_FALSE(other.unread());
  const auto& cache = static_cast<const NotedCache&>(*other.cache);
  EXPECT_EQ(cache.from, reader.cache.get());
  EXPECT_EQ(cache.copied, 99);
  all_.push_back(&other);
  EXPECT_THAT(step(), ElementsAre(1, 1));
  EXPECT_EQ(other.continuation.result().new_tokens, 1);
}

}  // namespace
}  // namespace fbi::infer
