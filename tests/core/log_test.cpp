#include "fbi/core/log.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "fbi/core/file.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace fbi {
namespace {

using test::expect_error;
using test::TempDir;

class Log : public testing::Test {
 protected:
  void TearDown() override { log::reset(); }
  TempDir folder_;
};

TEST_F(Log, SilentUntilAsked) {
  testing::internal::CaptureStderr();
  testing::internal::CaptureStdout();
  log::error("nobody listens");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
}

TEST_F(Log, FileGetsAllLevelsAndIsAppendedTo) {
  const auto path = folder_ / "train.log";
  {
    const log::FileSink sink(path.string());
    log::debug("step ", 1, " {} %s");
  }
  log::error("between");
  const log::FileSink sink(path.string());
  log::warn("loss ", 2.5);
  const std::string text = read_file(path);
  EXPECT_THAT(text,
              testing::MatchesRegex("[^\n]*debug step 1 \\{\\} %s\n[^\n]*warning loss 2.5\n"));
}

TEST_F(Log, TerminalHonoursItsLevel) {
  testing::internal::CaptureStderr();
  log::add_terminal(log::Level::kWarn);
  log::info("quiet");
  log::warn("loud");
  log::reset();
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_THAT(text, testing::HasSubstr("loud"));
  EXPECT_THAT(text, testing::Not(testing::HasSubstr("quiet")));
}

TEST_F(Log, UnwritableFileIsADiskError) {
  write_file(folder_ / "file", "");
  expect_error<DiskError>([&] { log::FileSink((folder_ / "file" / "train.log").string()); },
                          "train.log");
}

TEST_F(Log, FullDiskDisturbsNobody) {
  const auto path = folder_ / "train.log";
  testing::internal::CaptureStderr();
  const log::FileSink full("/dev/full");
  const log::FileSink sink(path.string());
  log::info("still written");
  log::reset();
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_THAT(read_file(path), testing::HasSubstr("still written"));
}

TEST_F(Log, LinesOfSeveralThreadsStayWhole) {
  const auto path = folder_ / "train.log";
  const log::FileSink sink(path.string());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      for (int i = 0; i < 100; ++i) log::info(std::string(50, 'x'), "!");
    });
  }
  for (auto& thread : threads) thread.join();
  const std::string text = read_file(path);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 400);
  std::size_t whole = 0;
  const std::string line = " info " + std::string(50, 'x') + "!\n";
  for (auto at = text.find(line); at != std::string::npos; at = text.find(line, at + 1)) ++whole;
  EXPECT_EQ(whole, 400u);
}

}  // namespace
}  // namespace fbi
