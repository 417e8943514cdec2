#include "fbi/checkpoint/run_lock.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/log.h"
#include "fbi/core/system.h"
#include "support/child_process.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi::checkpoint {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

/// Collects what is logged while it lives.
class LogCapture {
 public:
  std::string text() const { return read_file(folder_ / "log"); }

 private:
  test::TempDir folder_;
  log::FileSink sink_{(folder_ / "log").string()};
};

/// The one lock file of a run.
fs::path lock_file(const fs::path& run) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(run / ".lock")) files.push_back(entry.path());
  EXPECT_EQ(files.size(), 1u) << "older generations and claims must be gone";
  return files.at(0);
}

/// Leaves the lock of some other process, refreshed `age` seconds ago.
void leave_lock(const fs::path& run, const json& changes, long age = 0) {
  json owner;
  {
    const RunLock lock(run);
    owner = json::parse(read_file(lock_file(run)));
  }
  owner.update(changes);
  const fs::path path = lock_file(run);
  write_file(path, owner.dump());
  struct stat info = {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  const struct timespec times[2] = {{info.st_atim.tv_sec, 0}, {info.st_mtim.tv_sec - age, 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
}

TEST(RunLock, RefusesASecondHolderAndNamesTheFirst) {
  const test::TempDir run;
  const RunLock lock(run.path());
  test::expect_error<UsageError>([&] { RunLock second(run.path()); }, "is in use", host_name(),
                                 "process " + std::to_string(process_id()));
}

TEST(RunLock, IsFreeAfterRelease) {
  const test::TempDir run;
  LogCapture log;
  for (int i = 0; i < 3; ++i) {
    RunLock lock(run.path());
    lock.touch();
  }
  RunLock first(run.path());
  RunLock second(std::move(first));
  EXPECT_THROW(RunLock(run.path()), UsageError) << "moving keeps it held";
  const test::TempDir other;
  second = RunLock(other.path());
  const RunLock third(run.path());
  EXPECT_EQ(log.text(), "") << "nothing was taken over";
  EXPECT_EQ(fs::file_size(lock_file(run.path())) > 0, true);
}

TEST(RunLock, ALiveSecondProcessIsNamed) {
  const test::TempDir run;
  test::Turn locked, done;
  test::Child child([&] {
    const RunLock lock(run.path());
    locked.signal();
    done.wait();
  });
  locked.wait();
  test::expect_error<UsageError>([&] { RunLock lock(run.path()); },
                                 "process " + std::to_string(child.pid()), host_name());
  done.signal();
  EXPECT_EQ(child.wait(), 0);
  const RunLock lock(run.path());
}

TEST(RunLock, AKilledProcessIsTakenOverWithAMessage) {
  const test::TempDir run;
  pid_t killed = 0;
  {
    test::Child child([&] {
      const RunLock lock(run.path());
      raise(SIGKILL);
    });
    killed = child.pid();
    EXPECT_TRUE(WIFSIGNALED(child.wait()));
  }
  LogCapture log;
  const RunLock lock(run.path());
  const std::string text = log.text();
  EXPECT_THAT(text, HasSubstr("process " + std::to_string(killed)));
  EXPECT_THAT(text, HasSubstr("taking it over"));
}

TEST(RunLock, AForkedCopyDoesNotRelease) {
  const test::TempDir run;
  std::optional<RunLock> lock(run.path());
  test::Child child([&] { lock.reset(); });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_THROW(RunLock(run.path()), UsageError);
}

TEST(RunLock, AReusedPidIsADeadOwner) {
  const test::TempDir run;
  leave_lock(run.path(), {{"start_ticks", 1}});
  const RunLock lock(run.path());
}

TEST(RunLock, OtherMachinesCountAsDeadOnlyAfterALongSilence) {
  const test::TempDir run;
  const json elsewhere = {{"host", "node17"}, {"machine", "node17 boot ns"}, {"pid", 4242}};
  leave_lock(run.path(), elsewhere, 100);
  test::expect_error<UsageError>([&] { RunLock lock(run.path(), std::chrono::seconds(1000)); },
                                 "node17", "process 4242", "after 1000 s");
  const RunLock lock(run.path(), std::chrono::seconds(50));
}

TEST(RunLock, TouchKeepsOtherMachinesAway) {
  const test::TempDir run;
  leave_lock(run.path(), {{"machine", "elsewhere"}}, 5000);
  RunLock lock(run.path());
  const fs::path path = lock_file(run.path());
  const struct timespec old[2] = {{1, 0}, {1, 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), old, 0), 0);
  lock.touch();
  struct stat info = {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_GT(info.st_mtim.tv_sec, 1);
}

/// A step may take longer than the time after which a lock counts as left.
TEST(RunLock, IsKeptWhileItsOwnerIsBusy) {
  const test::TempDir run;
  const RunLock lock(run.path(), std::chrono::seconds(1));
  const fs::path path = lock_file(run.path());
  const struct timespec old[2] = {{1, 0}, {1, 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), old, 0), 0);
  struct stat info = {};
  for (int tries = 0; tries < 600 && info.st_mtim.tv_sec <= 1; ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    ASSERT_EQ(stat(path.c_str(), &info), 0);
  }
  EXPECT_GT(info.st_mtim.tv_sec, 1);
}

TEST(RunLock, AnEarlierStartOfTheSameSlurmJobIsDead) {
  const test::TempDir run;
  const json elsewhere = {{"machine", "node17"}, {"slurm_job", "77"}, {"slurm_restarts", 1}};
  setenv("SLURM_JOB_ID", "77", 1);
  setenv("SLURM_RESTART_COUNT", "2", 1);
  leave_lock(run.path(), elsewhere);
  { const RunLock lock(run.path()); }
  setenv("SLURM_RESTART_COUNT", "1", 1);
  leave_lock(run.path(), elsewhere);
  EXPECT_THROW(RunLock(run.path()), UsageError) << "the same start may have several steps";
  setenv("SLURM_RESTART_COUNT", "2", 1);
  setenv("SLURM_JOB_ID", "78", 1);
  EXPECT_THROW(RunLock(run.path()), UsageError);
  unsetenv("SLURM_JOB_ID");
  unsetenv("SLURM_RESTART_COUNT");
}

TEST(RunLock, ABrokenLockIsJudgedByItsAge) {
  const test::TempDir run;
  leave_lock(run.path(), json::object());
  const fs::path path = lock_file(run.path());
  write_file(path, "{\"host\": 3");
  test::expect_error<UsageError>([&] { RunLock lock(run.path()); }, "unknown host");
  const struct timespec old[2] = {{1, 0}, {1, 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), old, 0), 0);
  const RunLock lock(run.path());
}

TEST(RunLock, TheOneThatStoodStillLearnsThatItLostTheLock) {
  const test::TempDir run;
  RunLock lock(run.path());
  json owner = json::parse(read_file(lock_file(run.path())));
  owner["machine"] = "elsewhere";  // as the other machine sees this one
  const fs::path path = lock_file(run.path());
  write_file(path, owner.dump());
  const struct timespec old[2] = {{1, 0}, {1, 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), old, 0), 0);
  const RunLock other(run.path());
  test::expect_error<UsageError>([&] { lock.touch(); }, "was taken over by process");
}

TEST(RunLock, OfManyThatStartTogetherOneWins) {
  // Both from nothing and from the lock of a dead process; winners hold until all have tried.
  for (const bool left_behind : {false, true}) {
    for (int repeat = 0; repeat < 5; ++repeat) {
      const test::TempDir run;
      if (left_behind) leave_lock(run.path(), {{"start_ticks", 1}});
      constexpr int kProcesses = 4;
      test::Turn go, tried, end;
      std::vector<std::unique_ptr<test::Child>> children;
      for (int i = 0; i < kProcesses; ++i) {
        children.push_back(std::make_unique<test::Child>([&] {
          go.wait();
          std::optional<RunLock> lock;
          try {
            lock.emplace(run.path());
          } catch (const UsageError&) {
          }
          tried.signal();
          end.wait();
          _exit(lock ? 10 : 20);
        }));
      }
      for (int i = 0; i < kProcesses; ++i) go.signal();
      for (int i = 0; i < kProcesses; ++i) tried.wait();
      for (int i = 0; i < kProcesses; ++i) end.signal();
      int winners = 0;
      for (auto& child : children) winners += WEXITSTATUS(child->wait()) == 10;
      EXPECT_EQ(winners, 1);
    }
  }
}

TEST(RunLock, ExclusionHoldsWhileManyTakeTurns) {
  // Each holder marks the folder; two marks at once would mean two holders. Every third one ends
  // without releasing.
  const test::TempDir run;
  std::vector<std::unique_ptr<test::Child>> children;
  for (int i = 0; i < 24; ++i) {
    children.push_back(std::make_unique<test::Child>([&, i] {
      for (;;) {
        try {
          const RunLock lock(run.path());
          if (mkdir((run / "held").c_str(), 0777) != 0) _exit(33);
          if (rmdir((run / "held").c_str()) != 0) _exit(34);
          if (i % 3 == 0) _exit(0);
          return;
        } catch (const UsageError&) {
          usleep(500);
        }
      }
    }));
  }
  for (auto& child : children) EXPECT_EQ(child->wait(), 0);
}

TEST(RunLock, AFolderThatCantBeWrittenIsADiskError) {
  const test::TempDir run;
  write_file(run / "file", "");
  test::expect_error<DiskError>([&] { RunLock lock(run / "file"); }, (run / "file").string());
}

}  // namespace
}  // namespace fbi::checkpoint
