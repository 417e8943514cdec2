#include "infer/batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <vector>

#include "infer/word_tokenizer.h"

namespace fbi::infer {
namespace {

using ::testing::ElementsAre;

constexpr std::int64_t kSmallVocab = 8;

class NotedCache final : public SequenceCache {
 public:
  void reserve(std::int64_t positions) override { reserved = std::max(reserved, positions); }
  void copy(const SequenceCache& other, std::int64_t positions) override {
    from = &other;
    copied = positions;
  }

  std::int64_t reserved = 0, copied = 0;
  const SequenceCache* from = nullptr;
};

/// Notes what it is fed; all logits are 0.
class NotedForward final : public Forward {
 public:
  std::unique_ptr<SequenceCache> new_cache() override { return std::make_unique<NotedCache>(); }
  void run(std::span<const TokenRow> rows) override {
    EXPECT_LE(std::ssize(rows), kMaxRows);
    for (const TokenRow& row : rows) {
      EXPECT_LT(row.position, static_cast<NotedCache*>(row.cache)->reserved);
      ++fed[row.cache];
    }
  }
  void logits(std::int64_t, std::int64_t count, float* out) override {
    std::fill_n(out, count * kSmallVocab, 0.0f);
  }
  double read_bandwidth(std::uint64_t) override { return 0; }

  std::map<const SequenceCache*, std::int64_t> fed;  // rows of each
};

/// Continuations ask a model how large it is.
class Sizes final : public eval::LanguageModel {
 public:
  std::int64_t vocab_size() const override { return kSmallVocab; }
  std::int64_t max_position() const override { return 100000; }
  std::string dtype_description() const override { return "none"; }
  void logits(std::span<const std::int32_t>, std::int64_t, std::int64_t,
              std::span<float>) override {}
  void token_nll(std::span<const std::int32_t>, std::int64_t, std::int64_t,
                 std::span<float>) override {}
  std::unique_ptr<eval::DecodingSession> start_decoding() override { return nullptr; }
};

class BatchTest : public ::testing::Test {
 protected:
  Sequence& add(std::int64_t prompt_tokens) {
    const GenerateOptions options = {.max_new_tokens = 1000, .sampling = {.temperature = 0}};
    owned_.push_back(std::make_unique<Sequence>(words_, sizes_, options,
                                                std::vector<std::int32_t>(prompt_tokens, 3),
                                                nullptr, forward_.new_cache()));
    all_.push_back(owned_.back().get());
    return *owned_.back();
  }
  /// The rows that each sequence got, in the order of add().
  std::vector<std::int64_t> step() {
    forward_.fed.clear();
    batch_.step(all_);
    std::vector<std::int64_t> rows;
    for (const auto& sequence : owned_) rows.push_back(forward_.fed[sequence->cache.get()]);
    return rows;
  }

  WordTokenizer words_{{"a", "b", "c", "d", "e"}};
  Sizes sizes_;
  NotedForward forward_;
  SerialFor serial_;
  Batch batch_{forward_, kSmallVocab, serial_};
  std::vector<std::unique_ptr<Sequence>> owned_;
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

TEST_F(BatchTest, APromptThatAnotherHasReadIsTakenOver) {
  Sequence& reader = add(100);
  Sequence& other = add(100);
  all_.pop_back();
  EXPECT_TRUE(reader.unread());
  EXPECT_THAT(step(), ElementsAre(64, 0));
  EXPECT_FALSE(reader.has_read());
  EXPECT_THAT(step(), ElementsAre(36, 0));
  EXPECT_TRUE(reader.has_read());
  EXPECT_TRUE(other.unread());
  other.take_prompt(reader);
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
