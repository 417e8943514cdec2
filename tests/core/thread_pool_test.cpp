#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "fbi/core/parallel.h"
#include "support/expect_error.h"

namespace fbi {
namespace {

using Range = std::pair<std::int64_t, std::int64_t>;

std::vector<Range> ranges_of(ParallelFor& parallel, std::int64_t begin, std::int64_t end,
                             std::int64_t grain) {
  std::mutex mutex;
  std::vector<Range> ranges;
  parallel.run(begin, end, grain, [&](std::int64_t first, std::int64_t last) {
    const std::lock_guard lock(mutex);
    ranges.emplace_back(first, last);
  });
  std::sort(ranges.begin(), ranges.end());
  return ranges;
}

TEST(ThreadPool, CoversEachItemOnceInRangesOfAtLeastTheGrain) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const std::int64_t items : {1, 2, 7, 8, 9, 100}) {
      for (const std::int64_t grain : {-1, 0, 1, 3, 50, 1000}) {
        const auto ranges = ranges_of(pool, -5, -5 + items, grain);
        ASSERT_LE(ranges.size(), static_cast<std::size_t>(threads));
        std::int64_t next = -5;
        for (const auto& [first, last] : ranges) {
          ASSERT_EQ(first, next);
          ASSERT_LT(first, last);
          if (last != -5 + items) ASSERT_GE(last - first, grain);
          next = last;
        }
        ASSERT_EQ(next, -5 + items);
      }
    }
    EXPECT_TRUE(ranges_of(pool, 3, 3, 1).empty());
    EXPECT_TRUE(ranges_of(pool, 3, 2, 1).empty());
  }
}

TEST(ThreadPool, DefaultUsesTheProcessors) {
  EXPECT_GE(ThreadPool().threads(), 1);
}

TEST(ThreadPool, UsesItsThreads) {
  ThreadPool pool(3);
  std::atomic<int> arrived = 0;
  // Ends only when three threads are inside at once.
  pool.run(0, 3, 1, [&](std::int64_t, std::int64_t) {
    ++arrived;
    while (arrived < 3) std::this_thread::yield();
  });
  EXPECT_EQ(arrived, 3);
}

TEST(ThreadPool, RethrowsTheFirstRangesFailureAndGoesOn) {
  ThreadPool pool(4);
  for (int repeat = 0; repeat < 20; ++repeat) {
    std::atomic<int> calls = 0;
    test::expect_error<std::runtime_error>(
        [&] {
          pool.run(0, 4, 1, [&](std::int64_t first, std::int64_t) {
            ++calls;
            if (first > 0) throw std::runtime_error("item " + std::to_string(first));
          });
        },
        "item 1");
    EXPECT_EQ(calls, 4) << "the others finish before the failure is reported";
  }
  EXPECT_EQ(ranges_of(pool, 0, 8, 1).size(), 4u);
}

TEST(ThreadPool, NestedRunGoesSerially) {
  ThreadPool pool(2), other(2);
  std::atomic<int> items = 0;
  const auto count = [&](std::int64_t first, std::int64_t last) {
    items += static_cast<int>(last - first);
  };
  pool.run(0, 4, 1, [&](std::int64_t, std::int64_t) {
    pool.run(0, 10, 1, count);
    other.run(0, 10, 1, count);
  });
  EXPECT_EQ(items, 40);
}

TEST(ThreadPool, ServesSeveralCallersAndManyRuns) {
  ThreadPool pool(3);
  std::vector<std::thread> callers;
  std::atomic<std::int64_t> sum = 0;
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 300; ++repeat) {
        pool.run(0, 10, 1, [&](std::int64_t first, std::int64_t last) {
          for (auto i = first; i < last; ++i) sum += i;
        });
      }
    });
  }
  for (auto& caller : callers) caller.join();
  EXPECT_EQ(sum, 3 * 300 * 45);
}

TEST(SerialFor, OneCallForTheWholeRange) {
  SerialFor serial;
  EXPECT_EQ(ranges_of(serial, 2, 9, 1), (std::vector<Range>{{2, 9}}));
  EXPECT_TRUE(ranges_of(serial, 2, 2, 1).empty());
}

}  // namespace
}  // namespace fbi
