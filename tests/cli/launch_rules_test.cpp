// What fbi-llm launch refuses, and which of several ends of ranks decides.
#include <gtest/gtest.h>

#include "cli/launch.h"
#include "cli/verbs.h"
#include "fbi/core/error.h"
#include "support/expect_error.h"

namespace fbi::cli {
namespace {

RankEnd end(int rank, int code, bool by_launcher = false) {
  return {rank, code, by_launcher};
}

TEST(DecisiveEnd, FailureOfItsOwnBeforeLostPeerBeforeStopBeforeSuccess) {
  EXPECT_EQ(decisive_end({end(0, 0), end(1, 0)}).code, 0);
  EXPECT_EQ(decisive_end({end(0, 0), end(1, 75), end(2, 0)}).code, 75);
  EXPECT_EQ(decisive_end({end(0, 75), end(1, 5), end(2, 0)}).code, 5);
  EXPECT_EQ(decisive_end({end(0, 5), end(1, 75), end(2, 3), end(3, 5)}).code, 3);
  EXPECT_EQ(decisive_end({end(0, 5), end(1, 137)}).code, 137);
}

TEST(DecisiveEnd, TheFirstAmongEquals) {
  EXPECT_EQ(decisive_end({end(0, 0), end(2, 3), end(1, 4)}).rank, 2);
  EXPECT_EQ(decisive_end({end(1, 5), end(0, 5)}).rank, 1);
}

TEST(DecisiveEnd, WhatTheLauncherKilledSaysNothing) {
  EXPECT_EQ(decisive_end({end(1, 5), end(0, 137, true)}).code, 5);
  EXPECT_EQ(decisive_end({end(1, 0), end(0, 143, true)}).code, 0);
  EXPECT_EQ(decisive_end({end(1, 137, true), end(0, 137, true)}).code, 137);
}

void expect_refused(const std::vector<std::string>& words, const std::string& part) {
  const Verb verb = launch_verb();
  test::expect_error<UsageError>([&] { (void)verb.run(parse_arguments(verb, words)); }, part);
}

TEST(Launch, RefusesWhatCannotBeStarted) {
  expect_refused({"--nproc", "0", "--", "train"}, "--nproc: expected 1 to 1024, found 0");
  expect_refused({"--nproc", "2"}, "--command VERB");
  expect_refused({"--nproc", "2", "--", "launch"}, "launch cannot start itself");
  expect_refused({"--nproc", "2", "--output", "some", "--", "train"},
                 "expected first or all, found 'some'");
  expect_refused({"--nproc", "2", "--grace-seconds", "-1", "--", "train"},
                 "--grace-seconds: expected");
  expect_refused({"--nproc", "2", "--program", "./nowhere", "--", "x"},
                 "cannot start ./nowhere: No such file");
}

}  // namespace
}  // namespace fbi::cli
