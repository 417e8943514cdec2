#include "fbi/core/system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "core/cgroup.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi {
namespace {

TEST(System, Processors) {
  EXPECT_GE(usable_processors(), 1);
}

/// Of a process three groups deep, in a system with both versions.
TEST(Cgroup, TheSmallestLimitOnTheWayUpHolds) {
  const test::TempDir folder;
  const auto limits_of = [&](const std::string& groups) {
    write_file(folder / "groups", groups);
    return cgroup_limits(folder / "groups", folder.path());
  };
  const auto write = [&](const std::string& file, const std::string& text) {
    std::filesystem::create_directories((folder / file).parent_path());
    write_file(folder / file, text + "\n");
  };
  EXPECT_FALSE(limits_of("0::/a/b/c\n").processors);
  EXPECT_FALSE(limits_of("0::/a/b/c\n").memory_bytes);
  write("a/b/cpu.max", "150000 100000");
  write("a/b/c/cpu.max", "max 100000");
  write("a/cpu.max", "300000 100000");
  write("a/memory.max", "max");
  write("memory.max", "5000000000");
  EXPECT_EQ(limits_of("0::/a/b/c\n").processors, 1.5);
  EXPECT_EQ(limits_of("0::/a/b/c\n").memory_bytes, 5000000000u);
  EXPECT_EQ(limits_of("0::/a\n").processors, 3);
  EXPECT_EQ(limits_of("0::/\n").processors, std::nullopt);

  write("cpu,cpuacct/d/cpu.cfs_quota_us", "200000");
  write("cpu,cpuacct/d/cpu.cfs_period_us", "100000");
  write("cpu,cpuacct/cpu.cfs_quota_us", "-1");
  write("cpu,cpuacct/cpu.cfs_period_us", "100000");
  write("memory/d/memory.limit_in_bytes", "1000000");
  write("memory/memory.limit_in_bytes", "9223372036854771712");
  const auto limits = limits_of("4:cpu,cpuacct:/d/e\n5:memory:/d\n1:name=systemd:/d\n");
  EXPECT_EQ(limits.processors, 2);
  EXPECT_EQ(limits.memory_bytes, 1000000u);
  EXPECT_FALSE(limits_of("no group\n").processors);
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
