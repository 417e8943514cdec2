#include "infer/prefix_cache.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "infer/noted_forward.h"

namespace fbi::infer {
namespace {

using Ids = std::vector<std::int32_t>;

/// `count` ids, all of them `id`, behind those of `begin`.
Ids with(Ids begin, std::int32_t id, std::size_t count) {
  begin.insert(begin.end(), count, id);
  return begin;
}

class PrefixCacheTest : public ::testing::Test {
 protected:
  Sequence& prompt(const Ids& ids, std::optional<std::int64_t> score_best = {}) {
    Sequence& sequence = made_.add(ids, {.max_new_tokens = 0, .sampling = {}});
    if (score_best) {
      sequence.continuation.keep_scores(*score_best);
      sequence.score_prompt = true;
    }
    return sequence;
  }
  /// A text of these ids alone that has been read.
  void keep(const Ids& ids, std::optional<std::int64_t> score_best = {}) {
    Sequence& sequence = prompt(ids, score_best);
    sequence.cache->reserve(std::ssize(ids));
    const std::vector<float> logits(kSmallVocab);
    for (; sequence.fed < std::ssize(ids); ++sequence.fed) {
      if (score_best && sequence.pending() > 1) sequence.continuation.score(sequence.fed, logits);
    }
    cache_.keep(sequence);
  }
  /// How many tokens of a prompt are there.
  std::int64_t found(const Ids& ids, std::optional<std::int64_t> score_best = {}) {
    return cache_.find(prompt(ids, score_best)).shared;
  }

  NotedSequences made_;
  PrefixCache cache_{300};
};

TEST_F(PrefixCacheTest, GivesUpWhatWasNotUsedForLongest) {
  const Ids a(50, 1), b(60, 2);
  keep(a);
  keep(b);
  EXPECT_TRUE(cache_.give_up());
  EXPECT_EQ(found(with(a, 4, 9)), 0);
  EXPECT_EQ(found(with(b, 4, 9)), 60);
  EXPECT_EQ(cache_.bytes(), 60u);
  EXPECT_TRUE(cache_.give_up());
  EXPECT_FALSE(cache_.give_up());
}

TEST_F(PrefixCacheTest, FindsTheLongestBeginning) {
  const Ids a(50, 1), b = with(a, 2, 20), c = with(a, 3, 30);
  keep(b);
  keep(c);
  EXPECT_EQ(found(with(b, 4, 9)), 70);
  EXPECT_EQ(found(with(c, 4, 9)), 80);
  EXPECT_EQ(found(with(a, 4, 9)), 50);
  EXPECT_EQ(found(b), 69) << "the last token is fed in any case: its logits are wanted";
  EXPECT_EQ(found(a), 49);
  EXPECT_EQ(found(Ids(50, 4)), 0);
}

TEST_F(PrefixCacheTest, AFewTokensAreNotWorthIt) {
  const Ids a(40, 1);
  keep(a);
  EXPECT_EQ(found(with(Ids(15, 1), 2, 9)), 0);
  EXPECT_EQ(found(with(Ids(16, 1), 2, 9)), 16);
  EXPECT_EQ(found(Ids(5, 1)), 4) << "all of a short prompt";
  keep(Ids(15, 2));
  EXPECT_EQ(cache_.bytes(), 40u);
}

TEST_F(PrefixCacheTest, KeepsNothingTwice) {
  const Ids a(50, 1), longer = with(a, 2, 20);
  keep(a);
  keep(longer);
  EXPECT_EQ(cache_.bytes(), 70u) << "the longer one serves in its place";
  keep(a);
  EXPECT_EQ(cache_.bytes(), 70u);
  EXPECT_EQ(found(longer), 69);
}

TEST_F(PrefixCacheTest, WhatWasNotUsedForLongestGoes) {
  const Ids a(100, 1), b(100, 2), c(100, 3), d(100, 4);
  keep(a);
  keep(b);
  keep(c);
  EXPECT_EQ(found(a), 99);
  keep(d);
  EXPECT_EQ(cache_.bytes(), 300u);
  EXPECT_EQ(found(b), 0);
  EXPECT_EQ(found(a), 99);
  EXPECT_EQ(found(c), 99);
}

TEST_F(PrefixCacheTest, WhatIsTooLongIsKeptAsFarAsThereIsRoom) {
  keep(Ids(301, 5));
  EXPECT_EQ(found(Ids(310, 5)), 300);
  EXPECT_EQ(cache_.bytes(), 300u);
}

TEST_F(PrefixCacheTest, RoomThatIsReservedAheadDrivesNobodyOut) {
  const Ids a(100, 1), b(150, 2);
  keep(a);
  Sequence& grown = prompt(b);
  grown.cache->reserve(290);
  grown.fed = 150;
  cache_.keep(grown);
  EXPECT_EQ(found(with(a, 4, 9)), 100);
  EXPECT_EQ(found(with(b, 4, 9)), 150);
  EXPECT_EQ(cache_.bytes(), 250u);
}

TEST_F(PrefixCacheTest, ScoredPromptsNeedScores) {
  const Ids a(50, 1), more = with(a, 2, 10);
  keep(a);
  EXPECT_EQ(found(more, 2), 0);
  keep(a, 2);
  EXPECT_EQ(cache_.bytes(), 50u);
  EXPECT_EQ(found(more), 50);
  EXPECT_EQ(found(more, 3), 0) << "with other alternatives";
  EXPECT_EQ(found(more, 2), 49) << "what the last of them says of the next token is new";
  EXPECT_EQ(found(a, 2), 49);
  keep(more);
  EXPECT_EQ(found(more, 2), 49) << "without scores it does not serve in the other's place";
  EXPECT_EQ(cache_.bytes(), 110u);
}

}  // namespace
}  // namespace fbi::infer
