#include "infer/team.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace fbi::infer {
namespace {

/// Runs phases of as many pieces as `counts` says; how often each piece came.
std::vector<std::vector<int>> taken(Team& team, const std::vector<std::int64_t>& counts) {
  std::vector<std::vector<std::atomic<int>>> seen;
  for (const std::int64_t count : counts) seen.emplace_back(static_cast<std::size_t>(count));
  team.run([&](const Member& member) {
    for (std::size_t phase = 0; phase < counts.size(); ++phase) {
      member.take(counts[phase], [&](std::int64_t piece) { ++seen[phase].at(piece); });
      member.meet();
    }
  });
  std::vector<std::vector<int>> times;
  for (const auto& phase : seen) times.emplace_back(phase.begin(), phase.end());
  return times;
}

TEST(Team, EveryPieceIsTakenOnce) {
  for (const int threads : {1, 2, 3, 5}) {
    Team team(threads);
    for (int round = 0; round < 20; ++round) {
      for (const auto& phase : taken(team, {7, 1, 0, 64, 5, 4, 3})) {
        for (const int times : phase) EXPECT_EQ(times, 1) << threads << " threads";
      }
    }
  }
}

TEST(Team, OthersTakeWhatASlowMemberHasLeft) {
  Team team(2);
  std::atomic<int> by_others = 0;
  team.run([&](const Member& member) {
    // Member 0 does not begin before member 1 has taken everything.
    if (member.rank == 0) {
      while (by_others < 10) std::this_thread::yield();
    }
    member.take(10, [&](std::int64_t) { by_others += member.rank; });
    member.meet();
  });
  EXPECT_EQ(by_others, 10);
}

TEST(Team, TakesAllAloneInsideAnotherPoolsWork) {
  Team team(3);
  ThreadPool pool(2);
  pool.run(0, 2, 1, [&](std::int64_t begin, std::int64_t) {
    if (begin == 1) {
      EXPECT_EQ(taken(team, {4, 2}), (std::vector<std::vector<int>>{{1, 1, 1, 1}, {1, 1}}));
    }
  });
  EXPECT_EQ(taken(team, {2, 4}), (std::vector<std::vector<int>>{{1, 1}, {1, 1, 1, 1}}));
}

}  // namespace
}  // namespace fbi::infer
