#include "fbi/checkpoint/run_directory.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/system.h"
#include "fbi/formats/checkpoint_reader.h"
#include "support/child_process.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi::checkpoint {
namespace {

namespace fs = std::filesystem;
using test::expect_error;

const Resume kNone;
const Resume kAuto = Resume::from_text("auto");

/// A run with valid checkpoints of these steps.
void make_run(const fs::path& run, std::initializer_list<std::int64_t> steps) {
  fs::create_directories(run / "checkpoints");
  write_file(run / "config.json", "{}");
  for (const std::int64_t step : steps) {
    const fs::path folder = run / "checkpoints" / formats::checkpoint_folder_name(step);
    fs::create_directories(folder);
    formats::CheckpointManifest manifest;
    manifest.step = step;
    write_file(folder / "manifest.json", formats::manifest_to_json(manifest));
  }
}

std::unique_ptr<formats::CheckpointReader> open_checkpoint(const RunDirectory& directory) {
  return formats::open_first_valid(directory.checkpoints_to_try(), [](const fs::path& folder) {
    return std::make_unique<formats::CheckpointReader>(folder);
  });
}

TEST(Resume, FromText) {
  EXPECT_EQ(Resume::from_text("none").mode, Resume::Mode::kNone);
  EXPECT_EQ(Resume::from_text("auto").mode, Resume::Mode::kAuto);
  EXPECT_THROW(Resume::from_text(""), UsageError);
  expect_error<UsageError>([] { Resume::from_text("atuo"); },
                           "expected none, auto or a checkpoint folder, found 'atuo'");
  const test::TempDir root;
  make_run(root / "run", {10, 20});
  expect_error<UsageError>([&] { Resume::from_text((root / "run").string()); },
                           "run is a run; name one of its checkpoints, such as",
                           "checkpoints/step-00000020");
  const Resume path = Resume::from_text((root / "run/checkpoints/step-00000010").string());
  EXPECT_EQ(path.mode, Resume::Mode::kPath);
  EXPECT_EQ(path.checkpoint, root / "run/checkpoints/step-00000010");
}

TEST(RunDirectory, ANewOneIsCreatedAndLocked) {
  const test::TempDir root;
  for (const Resume& resume : {kNone, kAuto}) {
    const fs::path run = root / (resume.mode == Resume::Mode::kNone ? "deep/a" : "deep/b");
    const RunDirectory directory = RunDirectory::create_or_resume(run, resume);
    EXPECT_FALSE(directory.is_continued());
    EXPECT_EQ(open_checkpoint(directory), nullptr);
    EXPECT_EQ(directory.paths().checkpoints(), run / "checkpoints");
    expect_error<UsageError>([&] { RunDirectory::create_or_resume(run, kAuto); }, "in use",
                             host_name(), std::to_string(process_id()));
  }
}

TEST(RunDirectory, AnEmptyFolderIsNew) {
  const test::TempDir root;
  { const auto directory = RunDirectory::create_or_resume(root.path(), kNone); }
  const auto again = RunDirectory::create_or_resume(root.path(), kNone);
  EXPECT_FALSE(again.is_continued()) << "a lock alone is no content";
}

TEST(RunDirectory, WithoutResumeANonEmptyOneIsNotTouched) {
  const test::TempDir root;
  write_file(root / "config.json", "{}");
  expect_error<UsageError>([&] { RunDirectory::create_or_resume(root.path(), kNone); },
                           root.path().string(), "not empty", "--resume auto");
  EXPECT_FALSE(fs::exists(root / ".lock"));
}

TEST(RunDirectory, AutoRefusesWhatIsNoRun) {
  const test::TempDir root;
  write_file(root / "thesis.txt", "text");
  expect_error<UsageError>([&] { RunDirectory::create_or_resume(root.path(), kAuto); },
                           "holds no run");
  EXPECT_FALSE(fs::exists(root / ".lock"));
  expect_error<UsageError>([&] { RunDirectory::create_or_resume(root / "thesis.txt", kAuto); },
                           "is not a folder");
}

TEST(RunDirectory, AutoContinuesARunThatWasKilledBeforeItsConfiguration) {
  const test::TempDir root;
  write_file(root / "train.log", "started");
  write_file(root / "config.json.tmp-a.host-1-1", "{");
  EXPECT_TRUE(RunDirectory::create_or_resume(root.path(), kAuto).is_continued());
}

TEST(RunDirectory, AutoContinuesFromTheNewestValidCheckpoint) {
  const test::TempDir root;
  make_run(root.path(), {10, 20, 30});
  write_file(root / "notes.txt", "the user's own");
  write_file(root / "checkpoints/step-00000030/manifest.json", "{}");
  fs::create_directories(root / "checkpoints/.tmp-step-00000040-host-1-1");
  const auto directory = RunDirectory::create_or_resume(root.path(), kAuto);
  EXPECT_TRUE(directory.is_continued());
  EXPECT_EQ(open_checkpoint(directory)->manifest().step, 20);
  EXPECT_FALSE(fs::exists(root / "checkpoints/.tmp-step-00000040-host-1-1"));
}

TEST(RunDirectory, SetsLaterCheckpointsAside) {
  const test::TempDir root;
  make_run(root.path(), {10, 20, 30});
  const auto directory = RunDirectory::create_or_resume(root.path(), kAuto);
  directory.set_aside_later_than(30);
  directory.set_aside_later_than(10);
  make_run(root.path(), {10, 20});
  directory.set_aside_later_than(10);
  EXPECT_THAT(test::entries(root / "checkpoints"),
              ::testing::ElementsAre("passed-over-1-step-00000020", "passed-over-1-step-00000030",
                                     "passed-over-2-step-00000020", "step-00000010"));
  EXPECT_EQ(open_checkpoint(directory)->manifest().step, 10);
}

TEST(RunDirectory, AutoSaysWhenNoCheckpointCanBeUsed) {
  const test::TempDir root;
  make_run(root.path(), {10});
  write_file(root / "checkpoints/step-00000010/manifest.json", "{}");
  const auto directory = RunDirectory::create_or_resume(root.path(), kAuto);
  EXPECT_THROW(open_checkpoint(directory), CheckpointError);
}

TEST(RunDirectory, APathStartsANewRunOrContinuesItsOwnFromTheNewest) {
  const test::TempDir root;
  const fs::path old_run = root / "old";
  make_run(old_run, {10, 20});
  const Resume from_ten = Resume::from_text((old_run / "checkpoints/step-00000010").string());
  const Resume from_twenty = Resume::from_text((old_run / "checkpoints/step-00000020/").string());
  {
    const auto directory = RunDirectory::create_or_resume(root / "new", from_ten);
    EXPECT_FALSE(directory.is_continued());
    EXPECT_EQ(open_checkpoint(directory)->manifest().step, 10);
  }
  {
    const auto directory = RunDirectory::create_or_resume(old_run, from_twenty);
    EXPECT_TRUE(directory.is_continued());
    EXPECT_EQ(open_checkpoint(directory)->manifest().step, 20);
  }
  expect_error<UsageError>([&] { RunDirectory::create_or_resume(old_run, from_ten); },
                           "later checkpoints", "step-00000020");
  make_run(root / "third", {5});
  expect_error<UsageError>([&] { RunDirectory::create_or_resume(root / "third", from_ten); },
                           "holds another run");
  fs::create_directory(root / "empty");
  const auto absent =
      RunDirectory::create_or_resume(root / "fourth", Resume::from_text((root / "empty").string()));
  EXPECT_THROW(open_checkpoint(absent), CheckpointError);
}

TEST(RunDirectory, AReadOnlyFolderIsADiskErrorNamingIt) {
  const test::TempDir root;
  const fs::path run = root / "run";
  ASSERT_EQ(chmod(root.path().c_str(), 0555), 0);
  test::Child child([&] {
    if (geteuid() == 0 && seteuid(65534) != 0) _exit(3);  // root may write everywhere
    try {
      RunDirectory::create_or_resume(run, kAuto);
    } catch (const DiskError& error) {
      _exit(std::string(error.what()).find(run.string()) == std::string::npos ? 4 : 42);
    }
  });
  EXPECT_EQ(WEXITSTATUS(child.wait()), 42);
  ASSERT_EQ(chmod(root.path().c_str(), 0777), 0);
}

}  // namespace
}  // namespace fbi::checkpoint
