// Real processes: each rank is a forked child. This process itself must start no threads, because
// children inherit none of them.
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <memory>
#include <thread>
#include <vector>

#include "distributed/free_port.h"
#include "distributed/ranks.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/distributed/agreement.h"
#include "fbi/distributed/process_group.h"
#include "support/child_process.h"
#include "support/temp_dir.h"

namespace fbi::distributed {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

using test::free_port;

Rendezvous place(int rank, int world_size, int port) {
  Rendezvous result;
  result.rank = result.local_rank = rank;
  result.world_size = world_size;
  result.master_addr = "127.0.0.1";
  result.master_port = port;
  return result;
}

/// What one process of a group does; its text comes back to the parent, an error as "<exit code>
/// <message>".
using Body = std::function<std::string()>;

std::vector<std::string> run_processes(const std::vector<Body>& bodies) {
  const test::TempDir folder;
  std::vector<std::unique_ptr<test::Child>> children;
  for (std::size_t i = 0; i < bodies.size(); ++i) {
    children.push_back(std::make_unique<test::Child>([&, i] {
      std::string text;
      try {
        text = bodies[i]();
      } catch (const Error& error) {
        text = concat(static_cast<int>(error.exit_code()), " ", error.what());
      }
      write_file(folder / std::to_string(i), text);
    }));
  }
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < bodies.size(); ++i) {
    const int status = children[i]->wait();
    const auto path = folder / std::to_string(i);
    texts.push_back(std::filesystem::exists(path) ? read_file(path)
                                                  : concat("ended with status ", status));
  }
  return texts;
}

std::vector<std::string> run_group(int size, const ProcessGroupOptions& options,
                                   const std::function<std::string(Communicator&)>& body) {
  const int port = free_port();
  std::vector<Body> bodies;
  for (int rank = 0; rank < size; ++rank) {
    bodies.push_back(
        [&, rank] { return body(*make_gloo_group(place(rank, size, port), options)); });
  }
  return run_processes(bodies);
}

ProcessGroupOptions quick() {
  ProcessGroupOptions options;
  options.start_timeout = seconds(60);
  options.timeout = seconds(60);
  return options;
}

void append_bytes(std::string& text, const at::Tensor& tensor) {
  const at::Tensor dense = tensor.contiguous();
  text.append(static_cast<const char*>(dense.const_data_ptr()), dense.nbytes());
}

/// Values whose sums depend on the order of summation.
at::Tensor uneven(std::int64_t count, int rank, at::ScalarType type) {
  return at::arange(count, at::kFloat)
      .add(1)
      .mul(0.37 + 1.7 * rank * rank)
      .cos()
      .mul(rank + 1)
      .to(type);
}

/// All collectives, sizes and dtypes one after the other; returns every bit that came out.
std::string exercise(Communicator& ranks) {
  std::string bits;
  const int me = ranks.rank(), size = ranks.size();
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    for (const std::int64_t count : {0, 1, 1000}) {
      at::Tensor sum = uneven(count, me, type);
      auto reduced = ranks.all_reduce(sum, Reduce::kSum);
      at::Tensor part = at::empty({count}, type);
      auto scattered = ranks.reduce_scatter(part, uneven(count * size, me, type));  // two in flight
      scattered->wait();
      reduced->wait();
      at::Tensor largest = uneven(count, me, type);
      ranks.all_reduce(largest, Reduce::kMax)->wait();
      at::Tensor all = at::zeros({size, count}, type);
      all[me].copy_(part);
      ranks.all_gather(all, all[me])->wait();
      for (const at::Tensor& tensor : {sum, part, largest, all}) append_bytes(bits, tensor);
    }
  }
  at::Tensor bytes = at::empty({size, 3}, at::kByte);
  ranks.all_gather(bytes, at::full({3}, me, at::kByte))->wait();
  at::Tensor counts = at::full({2}, me + 1, at::kLong);
  ranks.all_reduce(counts, Reduce::kSum)->wait();
  append_bytes(bits, bytes);
  append_bytes(bits, counts);
  ranks.barrier();
  return bits;
}

TEST(Gloo, ProcessesAndThreadsGiveTheSameBits) {
  if (!has_gloo()) GTEST_SKIP() << "built without Gloo";
  for (const int size : {2, 3}) {
    const auto processes = run_group(size, quick(), exercise);
    const auto again = run_group(size, quick(), exercise);
    EXPECT_EQ(processes, again);
    for (int rank = 0; rank < size; ++rank) {
      const auto thread = run_processes({[&] {
        std::string bits;
        test::run_ranks_ok(size, [&](Communicator& ranks) {
          const std::string mine = exercise(ranks);
          if (ranks.rank() == rank) bits = mine;
        });
        return bits;
      }});
      EXPECT_EQ(processes[rank], thread[0]) << "rank " << rank << " of " << size;
    }
  }
}

TEST(Gloo, WrongTensorsAreRefused) {
  if (!has_gloo()) GTEST_SKIP() << "built without Gloo";
  const auto texts = run_group(2, quick(), [](Communicator& ranks) {
    at::Tensor output = at::zeros({3});
    try {
      ranks.all_gather(output, at::zeros({2}));
    } catch (const UsageError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  });
  EXPECT_THAT(texts[0], testing::HasSubstr("3 x Float is not 2 times 2 x Float"));
}

TEST(Gloo, AKilledRankEndsTheOthersAtOnceAndIsNamed) {
  if (!has_gloo()) GTEST_SKIP() << "built without Gloo";
  ProcessGroupOptions options = quick();
  options.timeout = std::chrono::hours(1);  // must not matter: this test would not end in time
  for (const int victim : {1, 0}) {         // rank 0 takes the meeting place with it
    const auto texts = run_group(3, options, [&](Communicator& ranks) {
      ranks.barrier();
      if (ranks.rank() == victim) raise(SIGKILL);
      at::Tensor sum = at::zeros({1000});
      ranks.all_reduce(sum, Reduce::kSum)->wait();
      ranks.barrier();  // where a rank that got its data before the kill learns of it
      return std::string("no error");
    });
    for (const int rank : {0, 1, 2}) {
      if (rank == victim) continue;
      EXPECT_THAT(texts[rank],
                  testing::MatchesRegex(concat("5 [a-z_]+ on rank ", rank, ": rank ", victim,
                                               " \\(process [0-9]+ on .+\\) .+")));
      EXPECT_THAT(texts[rank], testing::HasSubstr("was lost or stands still"));
    }
    EXPECT_EQ(texts[victim], concat("ended with status ", SIGKILL));
  }
}

TEST(Gloo, ARankThatDoesNotComeIsGivenUpAfterTheTimeoutAndNamed) {
  if (!has_gloo()) GTEST_SKIP() << "built without Gloo";
  ProcessGroupOptions options = quick();
  options.timeout = milliseconds(300);
  const test::TempDir folder;
  const auto given_up = folder / "given-up";
  const auto texts = run_group(2, options, [&](Communicator& ranks) {
    if (ranks.rank() == 1) {
      while (!std::filesystem::exists(given_up)) std::this_thread::sleep_for(milliseconds(10));
      return std::string("late");
    }
    try {
      ranks.barrier();
    } catch (const PeerError&) {
      write_file(given_up, "");
      throw;
    }
    return std::string("no error");
  });
  EXPECT_THAT(
      texts[0],
      testing::MatchesRegex(
          "5 barrier on rank 0: rank 1 \\(.+\\) lives but stands still, 1 collective behind: .+"));
}

TEST(Gloo, ARankThatLeavesIsNamed) {
  if (!has_gloo()) GTEST_SKIP() << "built without Gloo";
  const auto texts = run_group(3, quick(), [](Communicator& ranks) {
    ranks.barrier();
    if (ranks.rank() == 2) throw DataError("cannot go on");
    ranks.barrier();
    return std::string("no error");
  });
  for (const int rank : {0, 1})
    EXPECT_THAT(texts[rank],
                testing::MatchesRegex("5 barrier on rank .: rank 2 \\(.+\\) has ended: .+"));
  EXPECT_EQ(texts[2], "3 cannot go on");
}

TEST(Gloo, AnErrorOfOneRankIsToldToAll) {
  if (!has_gloo()) GTEST_SKIP() << "built without Gloo";
  for (const int failing : {2, 0}) {  // rank 0 takes the meeting place with it
    const auto texts = run_group(3, quick(), [&](Communicator& ranks) {
      ranks.barrier();
      run_or_give_up(ranks, [&] {
        if (ranks.rank() == failing) throw DataError("cannot go on\nfor long");
        ranks.barrier();
      });
      return std::string("no error");
    });
    for (const int rank : {0, 1, 2}) {
      if (rank == failing) continue;
      EXPECT_THAT(texts[rank], testing::MatchesRegex(concat(
                                   "5 barrier on rank ", rank, ": rank ", failing,
                                   " \\(process [0-9]+ on .+\\) has ended: cannot go on: .+")));
    }
    EXPECT_EQ(texts[failing], "3 cannot go on\nfor long");
  }
}

/// Starts processes with places and facts of their own, and returns what each of them says.
std::vector<std::string> meet(const std::vector<std::pair<Rendezvous, std::string>>& ranks,
                              milliseconds start_timeout) {
  std::vector<Body> bodies;
  for (const auto& [rendezvous, config] : ranks) {
    bodies.push_back([&, start_timeout] {
      ProcessGroupOptions options;
      options.start_timeout = start_timeout;
      options.must_agree = {{"config hash", config}};
      make_gloo_group(rendezvous, options)->barrier();
      return std::string("met");
    });
  }
  return run_processes(bodies);
}

void expect_all(const std::vector<std::string>& texts, const std::vector<std::string>& parts,
                const std::string& exit_code = "2 ") {
  for (const std::string& text : texts) {
    EXPECT_THAT(text, testing::StartsWith(exit_code));
    for (const std::string& part : parts) EXPECT_THAT(text, testing::HasSubstr(part));
  }
}

TEST(GlooHandshake, RanksThatAgreeMeet) {
  if (!has_gloo()) GTEST_SKIP() << "built without Gloo";
  const int port = free_port();
  EXPECT_EQ(meet({{place(1, 2, port), "a"}, {place(0, 2, port), "a"}}, seconds(60)),
            std::vector<std::string>(2, "met"));
}

TEST(GlooHandshake, WhatDiffersIsNamedOnEveryRank) {
  if (!has_gloo()) GTEST_SKIP() << "built without Gloo";
  int port = free_port();
  expect_all(meet({{place(0, 3, port), "a"}, {place(1, 3, port), "a"}, {place(2, 3, port), "b"}},
                  seconds(60)),
             {"config hash", "rank 2", "has b"});
  port = free_port();
  expect_all(meet({{place(0, 2, port), "a"}, {place(1, 3, port), "a"}}, seconds(60)),
             {"rank 1", "one of 3 ranks", "one of 2"});
  port = free_port();
  expect_all(meet({{place(0, 3, port), "a"}, {place(1, 3, port), "a"}, {place(1, 3, port), "a"}},
                  seconds(60)),
             {"both are rank 1"});
}

TEST(GlooHandshake, MissingRanksAreNamedInTime) {
  if (!has_gloo()) GTEST_SKIP() << "built without Gloo";
  const int port = free_port();
  expect_all(meet({{place(0, 4, port), "a"}, {place(2, 4, port), "a"}}, seconds(5)),
             {"only 2 arrived", "missing: 1, 3"}, "5 ");
}

TEST(GlooHandshake, AUsedPortAndAnAbsentRankZeroAreNamed) {
  if (!has_gloo()) GTEST_SKIP() << "built without Gloo";
  const int port = free_port();
  expect_all(meet({{place(1, 2, port), "a"}}, milliseconds(300)),
             {"can't reach rank 0", "127.0.0.1:" + std::to_string(port)}, "5 ");
  const int descriptor = socket(AF_INET, SOCK_STREAM, 0);
  ASSERT_EQ(listen(descriptor, 1), 0);
  sockaddr_in address = {};
  socklen_t length = sizeof(address);
  ASSERT_EQ(getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &length), 0);
  const int used = ntohs(address.sin_port);
  expect_all(meet({{place(0, 2, used), "a"}}, milliseconds(300)),
             {"can't listen", std::to_string(used), "MASTER_PORT"});
  close(descriptor);
}

TEST(GlooHandshake, OneRankNeedsNobody) {
  EXPECT_EQ(make_gloo_group({})->size(), 1);
}

}  // namespace
}  // namespace fbi::distributed
