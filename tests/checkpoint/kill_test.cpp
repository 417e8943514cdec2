// Ends a process that commits checkpoints at every single point where it changes the file system,
// and looks at what it leaves.
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

#include "checkpoint/retention.h"
#include "checkpoint/temporary.h"
#include "fbi/checkpoint/checkpoint_tensors.h"
#include "fbi/checkpoint/commit.h"
#include "support/child_process.h"
#include "support/newest_checkpoint.h"
#include "support/temp_dir.h"

namespace {

int calls_until_kill = 0;  ///< 0: none

/// Called before the work of every function below.
void kill_point() {
  if (calls_until_kill > 0 && --calls_until_kill == 0) raise(SIGKILL);
}

}  // namespace

// The program's definitions come before the C library's, also for calls from other libraries.
extern "C" {
ssize_t pwrite(int file, const void* bytes, size_t size, off_t offset) {
  kill_point();
  if (calls_until_kill == 1 && size > 1) {  // the next one kills: leave a torn file
    size /= 2;
  }
  return syscall(SYS_pwrite64, file, bytes, size, offset);
}
ssize_t write(int file, const void* bytes, size_t size) {
  kill_point();
  return syscall(SYS_write, file, bytes, size);
}
int fsync(int) {
  kill_point();
  return 0;  // what a killed process has written is safe without; this only saves the test time
}
int rename(const char* from, const char* to) noexcept {
  kill_point();
  return static_cast<int>(syscall(SYS_rename, from, to));
}
int mkdir(const char* path, mode_t mode) noexcept {
  kill_point();
  return static_cast<int>(syscall(SYS_mkdir, path, mode));
}
int unlink(const char* path) noexcept {
  kill_point();
  return static_cast<int>(syscall(SYS_unlink, path));
}
int unlinkat(int folder, const char* path, int flags) noexcept {
  kill_point();
  return static_cast<int>(syscall(SYS_unlinkat, folder, path, flags));
}
int rmdir(const char* path) noexcept {
  kill_point();
  return static_cast<int>(syscall(SYS_rmdir, path));
}
}

namespace fbi::checkpoint {
namespace {

namespace fs = std::filesystem;
constexpr std::int64_t kSteps = 4;

at::Tensor content(std::int64_t step, std::int64_t index) {
  return at::arange(16, at::kFloat).mul(static_cast<double>(step * 10 + index));
}

/// Commits steps 1 to kSteps, keeping two, and says after each that it is done.
void commit_all(const fs::path& root, std::int64_t& done) {
  const auto alone = distributed::make_single_rank();
  CommitOptions options;
  options.keep = 2;
  options.max_shard_bytes = 64;  // a file per tensor
  for (std::int64_t step = 1; step <= kSteps; ++step) {
    formats::CheckpointManifest manifest;
    manifest.step = step;
    const std::vector<TensorPart> parts = {{"a", content(step, 0)}, {"b", content(step, 1)}};
    commit_checkpoint(*alone, root, manifest, parts, options);
    done = step;
  }
}

void check_newest(const fs::path& root, std::int64_t done) {
  remove_temporaries(root);
  const auto newest = test::open_newest_checkpoint(root);
  if (!newest) {
    EXPECT_EQ(done, 0);
    return;
  }
  const std::int64_t step = newest->manifest().step;
  EXPECT_TRUE(step == done || step == done + 1) << "found step " << step << " after " << done;
  const CheckpointTensors tensors(*newest);
  EXPECT_TRUE(at::equal(tensors.load("a"), content(step, 0)));
  EXPECT_TRUE(at::equal(tensors.load("b"), content(step, 1)));
  const auto all = formats::list_checkpoints(root);
  EXPECT_GE(static_cast<std::int64_t>(all.size()),
            std::min<std::int64_t>(done, kFewestCheckpoints));
  for (const fs::path& path : all) EXPECT_NO_THROW(formats::CheckpointReader{path});
  for (const auto& entry : fs::directory_iterator(root)) {
    EXPECT_TRUE(entry.path().filename().string().starts_with("step-")) << entry.path();
  }
}

TEST(KilledCommit, LeavesAWholeCheckpointWhereverItIsKilled) {
  auto* done = static_cast<std::int64_t*>(mmap(
      nullptr, sizeof(std::int64_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(done, MAP_FAILED);
  int kills = 0;
  for (bool killed = true; killed; kills += killed) {
    const test::TempDir root;
    *done = 0;
    test::Child child([&] {
      calls_until_kill = kills + 1;
      commit_all(root.path(), *done);
    });
    const int status = child.wait();
    killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    if (!killed) EXPECT_EQ(status, 0);
    SCOPED_TRACE(testing::Message() << "killed at call " << kills + 1 << " after step " << *done);
    check_newest(root.path(), *done);
    if (HasFailure()) break;
  }
  // Four commits of two files and a manifest make a folder, write, flush and rename as often.
  EXPECT_GT(kills, 60);
  EXPECT_EQ(*done, kSteps);
  munmap(done, sizeof(std::int64_t));
}

TEST(KilledCommit, TheNextProcessGoesOnWhereTheKilledOneStopped) {
  const test::TempDir root;
  std::int64_t done = 0;
  for (const int calls : {7, 23, 41, 60}) {
    test::Child child([&] {
      calls_until_kill = calls;
      commit_all(root.path(), done);
    });
    const int status = child.wait();
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << calls << ": " << status;
  }
  remove_temporaries(root.path());
  commit_all(root.path(), done);
  check_newest(root.path(), kSteps);
}

}  // namespace
}  // namespace fbi::checkpoint
