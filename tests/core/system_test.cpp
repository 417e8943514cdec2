#include "fbi/core/system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "fbi/core/error.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi {
namespace {

TEST(System, Processors) {
  EXPECT_GE(usable_processors(), 1);
}

TEST(System, ResidentMemoryFollowsUse) {
  constexpr std::size_t kBytes = 64 << 20;
  const std::uint64_t before = resident_bytes();
  ASSERT_GT(before, 0u);
  {
    std::vector<char> block(kBytes);
    std::memset(block.data(), 1, block.size());
    EXPECT_GE(resident_bytes(), before + kBytes / 2);
  }
  EXPECT_GE(peak_resident_bytes(), before + kBytes / 2);
}

TEST(System, FreeDiskBytesAsksTheNearestExistingFolder) {
  const test::TempDir folder;
  EXPECT_GT(free_disk_bytes(folder.path()), 0u);
  EXPECT_GT(free_disk_bytes(folder / "not" / "yet"), 0u);
  EXPECT_GT(free_disk_bytes("relative/not/yet"), 0u);
}

TEST(System, HostName) {
  EXPECT_FALSE(host_name().empty());
}

TEST(System, AllocatorHasAName) {
  EXPECT_THAT(allocator_name(),
              ::testing::AnyOf(::testing::HasSubstr("glibc"), ::testing::HasSubstr("gperftools")));
}

TEST(System, ProcessLifeIsSeen) {
  EXPECT_EQ(process_id(), getpid());
  EXPECT_TRUE(process_alive(process_id()));
  EXPECT_TRUE(process_alive(1));
  EXPECT_FALSE(process_alive(0));
  EXPECT_FALSE(process_alive(-1));
  EXPECT_GT(process_start_ticks(process_id()), 0u);

  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    for (;;) pause();
  }
  EXPECT_TRUE(process_alive(child));
  EXPECT_GE(process_start_ticks(child), process_start_ticks(process_id()));
  ASSERT_EQ(kill(child, SIGKILL), 0);
  siginfo_t info = {};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_FALSE(process_alive(child)) << "a zombie does not run";
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  EXPECT_FALSE(process_alive(child));
  EXPECT_EQ(process_start_ticks(child), 0u);
}

}  // namespace
}  // namespace fbi
