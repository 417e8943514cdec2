#pragma once

#include <ATen/ops/cos.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/log.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sin.h>

#include <exception>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "distributed/thread_group.h"

namespace fbi::test {

/// LibTorch's vector functions are MKL's, which sets each up at its first call. When threads come
/// there at once, one of them can get a result with an error of 1e-5: of 9,000 processes that did
/// nothing but this, with AVX-512, one had one. Real ranks are processes.
inline void set_up_vector_functions() {
  const at::Tensor x = at::ones({1});
  for (const auto function : {at::cos, at::sin, at::exp, at::log}) function(x);
}

/// Runs `body` on `size` ranks, each in a thread of its own that gives up its communicator at the
/// end. Returns what each threw.
inline std::vector<std::exception_ptr> run_ranks(
    int size, const std::function<void(distributed::Communicator&)>& body) {
  set_up_vector_functions();
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
