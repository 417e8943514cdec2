#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "fbi/distributed/communicator.h"

namespace fbi::test {

/// Runs `body` on `size` ranks, each in a thread of its own that gives up its communicator at the
/// end. Returns what each threw.
inline std::vector<std::exception_ptr> run_ranks(
    int size, const std::function<void(distributed::Communicator&)>& body) {
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  auto ranks = distributed::make_thread_group(size);
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank, communicator = std::move(ranks[rank])]() mutable {
      try {
        body(*communicator);
      } catch (...) {
        errors[rank] = std::current_exception();
      }
      communicator.reset();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

/// As run_ranks, for bodies that must not throw; rethrows the first error.
inline void run_ranks_ok(int size, const std::function<void(distributed::Communicator&)>& body) {
  for (const std::exception_ptr& error : run_ranks(size, body)) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace fbi::test
