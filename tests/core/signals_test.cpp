#include "fbi/core/signals.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>

namespace fbi {
namespace {

// Each body runs in a child process: handlers outlive a test.
TEST(Signals, FirstSignalIsRemembered) {
  const auto child = [] {
    install_stop_handlers();
    if (stop_requested() != 0) return 1;
    raise(SIGTERM);
    raise(SIGUSR1);
    if (stop_requested() != SIGTERM) return 2;
    clear_stop_request();
    raise(SIGUSR2);
    return stop_requested() == SIGUSR2 ? 0 : 3;
  };
  EXPECT_EXIT(_exit(child()), testing::ExitedWithCode(0), "");
}

TEST(Signals, WhatTheParentHadBlockedArrivesOnceHandlersAreThere) {
  const auto child = [] {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    raise(SIGUSR2);
    install_stop_handlers();
    return stop_requested() == SIGUSR2 ? 0 : 1;
  };
  EXPECT_EXIT(_exit(child()), testing::ExitedWithCode(0), "");
}

TEST(Signals, KeptActionsEndTheProcessAndLargeFilesDoNot) {
  const auto child = [](int signal) {
    std::signal(signal, SIG_DFL);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    keep_stop_actions();
    raise(SIGXFSZ);
    raise(signal);
    return 1;
  };
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGPIPE})
    EXPECT_EXIT(_exit(child(signal)), testing::KilledBySignal(signal), "");
}

/// A terminal that closes stops a program, but not one that was started by nohup.
TEST(Signals, AHangUpCountsUnlessItIsIgnored) {
  const auto child = [](void (*action)(int), int expected) {
    std::signal(SIGHUP, action);
    install_stop_handlers();
    raise(SIGHUP);
    return stop_requested() == expected ? 0 : 1;
  };
  EXPECT_EXIT(_exit(child(SIG_DFL, SIGHUP)), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(_exit(child(SIG_IGN, 0)), testing::ExitedWithCode(0), "");
}

TEST(Signals, SecondInterruptKills) {
  const auto child = [] {
    install_stop_handlers();
    raise(SIGINT);
    if (stop_requested() != SIGINT) return 1;
    raise(SIGINT);
    return 2;
  };
  EXPECT_EXIT(_exit(child()), testing::KilledBySignal(SIGINT), "");
}

}  // namespace
}  // namespace fbi
