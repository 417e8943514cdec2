#include "fbi/core/file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/core/signals.h"
#include "fbi/core/system.h"
#include "fbi/core/temporary.h"
#include "support/bytes_of.h"
#include "support/child_process.h"
#include "support/entries.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi {
namespace {

using test::bytes_of;
using test::entries;
using test::expect_error;
using test::TempDir;

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(MappedFile, ShowsTheBytesAndMoves) {
  const TempDir folder;
  write_file(folder / "a", "first");
  write_file(folder / "b", "second");
  MappedFile a(folder / "a");
  MappedFile b(folder / "b");
  EXPECT_EQ(text_of(a.bytes()), "first");
  MappedFile moved(std::move(a));
  EXPECT_EQ(text_of(moved.bytes()), "first");
  EXPECT_EQ(moved.path(), folder / "a");
  moved = std::move(b);
  EXPECT_EQ(text_of(moved.bytes()), "second");
  EXPECT_EQ(moved.path(), folder / "b");
}

TEST(MappedFile, EmptyFileIsAnEmptySpan) {
  const TempDir folder;
  write_file(folder / "empty", "");
  EXPECT_TRUE(MappedFile(folder / "empty").bytes().empty());
}

TEST(MappedFile, RefusesWhatIsNoFile) {
  const TempDir folder;
  expect_error<DataError>([&] { MappedFile(folder / "absent"); }, (folder / "absent").string(),
                          "No such file");
  expect_error<DataError>([&] { MappedFile(folder.path()); }, folder.path().string(), "directory");
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  expect_error<DataError>([&] { MappedFile(folder / "pipe"); }, "not a regular file");
}

TEST(ReadFile, ChecksTheSizeBeforeItReads) {
  const TempDir folder;
  write_file(folder / "four", "1234");
  EXPECT_EQ(read_file(folder / "four", 4), "1234");
  expect_error<DataError>([&] { read_file(folder / "four", 3); }, (folder / "four").string(),
                          "expected at most 3 bytes, found 4");
  expect_error<DataError>([&] { read_file(folder / "absent"); }, "No such file");
  expect_error<DataError>([&] { read_file(folder.path()); }, "directory");
}

TEST(DurableFile, AppearsOnlyAtCommit) {
  const TempDir folder;
  {
    DurableFile file(folder / "f");
    file.write("hello ");
    file.write(bytes_of("world"));
    EXPECT_EQ(file.bytes_written(), 11u);
    EXPECT_FALSE(std::filesystem::exists(folder / "f"));
    file.commit();
  }
  EXPECT_EQ(read_file(folder / "f"), "hello world");
  EXPECT_EQ(entries(folder.path()).size(), 1u);
}

TEST(DurableFile, WithoutCommitTheOldFileStays) {
  const TempDir folder;
  write_file(folder / "f", "old");
  { DurableFile(folder / "f").write("new"); }
  EXPECT_EQ(read_file(folder / "f"), "old");
  EXPECT_EQ(entries(folder.path()).size(), 1u) << "the temporary file must be gone";
}

TEST(DurableFile, RemovesTheLeftOverOfAKilledRunOnly) {
  const TempDir folder;
  const std::string theirs = concat("f.tmp-another-host-than-", host_name(), "-1-1");
  for (const std::string& name : {concat("f.tmp-", host_name(), "-999999999-1"), theirs})
    std::ofstream(folder / name) << "left over and longer than the new content";
  write_file(folder / "f", "new");
  EXPECT_EQ(read_file(folder / "f"), "new");
  EXPECT_EQ(entries(folder.path()), (std::vector<std::string>{"f", theirs}));
}

TEST(DurableFile, OfTwoProcessesEachWritesAWholeFile) {
  const TempDir folder;
  DurableFile ours(folder / "f");
  ours.write("ours, which is longer");
  {
    const test::Child other([&] { write_file(folder / "f", "theirs"); });
  }
  EXPECT_EQ(read_file(folder / "f"), "theirs");
  ours.commit();
  EXPECT_EQ(read_file(folder / "f"), "ours, which is longer");
  EXPECT_EQ(entries(folder.path()).size(), 1u);
}

TEST(DurableFile, OverwritesOnlyWhatWasWritten) {
  const TempDir folder;
  DurableFile file(folder / "f");
  file.write("0123456789");
  file.overwrite(2, bytes_of("ab"));
  file.overwrite(10, {});
  expect_error<UsageError>([&] { file.overwrite(9, bytes_of("cd")); }, "10 bytes written",
                           "2 bytes at offset 9");
  expect_error<UsageError>([&] { file.overwrite(~0ull, bytes_of("cd")); }, "10 bytes written");
  file.write("!");
  file.commit();
  EXPECT_EQ(read_file(folder / "f"), "01ab456789!");
}

TEST(DurableFile, FullDiskNamesPathReasonAndSpace) {
  const TempDir folder;
  // The temporary file leads to the device on which every write finds no space.
  std::filesystem::create_symlink("/dev/full", own_temporary(folder / "f.tmp"));
  expect_error<DiskError>(
      [&] {
        DurableFile file(folder / "f");
        file.write("x");
      },
      (folder / "f").string(), "No space left on device", "after 0 bytes", "free there");
  EXPECT_EQ(entries(folder.path()).size(), 0u);
}

TEST(DurableFile, FileSizeLimitIsAnErrorAndLeavesNothing) {
  const TempDir folder;
  const auto child = [&] {
    install_stop_handlers();  // ignores SIGXFSZ
    const rlimit limit{4096, 4096};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
    try {
      DurableFile file(folder / "f");
      const std::string text(10000, 'x');
      file.write(text);
    } catch (const DiskError& error) {
      return std::strstr(error.what(), "File too large") && std::strstr(error.what(), "after 4096")
                 ? 0
                 : 3;
    }
    return 4;
  };
  EXPECT_EXIT(_exit(child()), testing::ExitedWithCode(0), "");
  EXPECT_EQ(entries(folder.path()).size(), 0u);
}

TEST(DurableFile, UnwritablePlaces) {
  const TempDir folder;
  const std::string missing = expect_error<DiskError>(
      [&] { DurableFile(folder / "no" / "f"); }, "cannot create", "No such file",
      concat("the folder ", (folder / "no").string(), " is missing: mkdir -p "));
  EXPECT_EQ(missing.find("free there"), std::string::npos) << missing;
  // Below a regular file nobody can write, not even root.
  write_file(folder / "file", "");
  expect_error<DiskError>([&] { DurableFile(folder / "file" / "f"); }, "Not a directory");
  // The target is a folder: everything works until the rename.
  std::filesystem::create_directory(folder / "taken");
  expect_error<DiskError>([&] { write_file(folder / "taken", "x"); }, "taken", "Is a directory");
  EXPECT_EQ(entries(folder.path()), (std::vector<std::string>{"file", "taken"}));
}

TEST(DurableFile, ReadOnlyFolder) {
  const TempDir folder;
  ASSERT_EQ(chmod(folder.path().c_str(), 0555), 0);
  test::Child child([&] {
    if (geteuid() == 0 && seteuid(65534) != 0) _exit(3);  // root may write everywhere
    try {
      DurableFile file(folder / "f");
    } catch (const DiskError& error) {
      _exit(std::strstr(error.what(), "Permission denied") ? 42 : 4);
    }
  });
  EXPECT_EQ(WEXITSTATUS(child.wait()), 42);
  ASSERT_EQ(chmod(folder.path().c_str(), 0755), 0);
}

TEST(DurableFile, CommitAfterCommitIsRefused) {
  const TempDir folder;
  DurableFile file(folder / "f");
  file.commit();
  expect_error<DiskError>([&] { file.commit(); }, "Bad file descriptor");
  EXPECT_EQ(read_file(folder / "f"), "");
}

TEST(SyncDirectory, NamesAMissingFolder) {
  const TempDir folder;
  sync_directory(folder.path());
  expect_error<DiskError>([&] { sync_directory(folder / "absent"); }, (folder / "absent").string());
}

}  // namespace
}  // namespace fbi
