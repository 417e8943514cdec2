#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "fbi/core/parallel.h"
#include "fbi/core/spin.h"
#include "fbi/core/system.h"

namespace fbi {
namespace {

// True while this thread executes a body of any pool: a nested run then goes serially instead of
// waiting for itself.
thread_local bool inside_body = false;

}  // namespace

struct ThreadPool::Impl {
  struct Job {
    const ParallelFor::Body* body = nullptr;
    std::int64_t begin = 0, end = 0, chunk = 0;
    int chunks = 0;
  };

  std::mutex one_caller;
  std::mutex mutex;
  std::condition_variable start, done;
  Job job;
  // Changed under the mutex; who spins reads them without it.
  std::atomic<std::uint64_t> generation = 0;
  std::atomic<int> busy_workers = 0;
  bool stop = false;
  std::vector<std::exception_ptr> failures;  // one place per chunk
  std::vector<std::thread> workers;

  void execute(const Job& current, int chunk) {
    const std::int64_t first = current.begin + chunk * current.chunk;
    const std::int64_t last = chunk + 1 == current.chunks ? current.end : first + current.chunk;
    inside_body = true;
    try {
      (*current.body)(first, last);
    } catch (...) {
      failures[chunk] = std::current_exception();
    }
    inside_body = false;
  }

  void work(int chunk) {
    std::uint64_t seen = 0;
    for (;;) {
      spin_until([&] { return generation != seen; });  // the next job often follows at once
      std::unique_lock lock(mutex);
      start.wait(lock, [&] { return stop || generation != seen; });
      if (stop) return;
      seen = generation;
      const Job current = job;
      if (chunk >= current.chunks) continue;
      lock.unlock();
      execute(current, chunk);
      lock.lock();
      if (--busy_workers == 0) done.notify_one();
    }
  }

  void join() {
    {
      const std::lock_guard lock(mutex);
      stop = true;
    }
    start.notify_all();
    for (auto& worker : workers) worker.join();
    workers.clear();
  }
};

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>()) {
  const int count = threads > 0 ? threads : usable_processors();
  try {
    for (int chunk = 1; chunk < count; ++chunk) {
      impl_->workers.emplace_back([impl = impl_.get(), chunk] { impl->work(chunk); });
    }
  } catch (...) {  // no more threads to be had: the ones that run must end before Impl does
    impl_->join();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  impl_->join();
}

int ThreadPool::threads() const {
  return static_cast<int>(impl_->workers.size()) + 1;
}

void ThreadPool::run(std::int64_t begin, std::int64_t end, std::int64_t grain, const Body& body) {
  if (begin >= end) return;
  const std::int64_t items = end - begin;
  const std::int64_t share = items / threads() + (items % threads() != 0);
  const std::int64_t chunk = std::max({grain, share, std::int64_t{1}});
  if (inside_body || chunk >= items) return body(begin, end);

  Impl& impl = *impl_;
  const std::lock_guard caller(impl.one_caller);
  const int chunks = static_cast<int>(items / chunk + (items % chunk != 0));
  const Impl::Job job{&body, begin, end, chunk, chunks};
  {
    const std::lock_guard lock(impl.mutex);
    impl.job = job;
    impl.failures.assign(chunks, nullptr);
    impl.busy_workers = chunks - 1;
    ++impl.generation;
  }
  impl.start.notify_all();
  impl.execute(job, 0);
  spin_until([&] { return impl.busy_workers == 0; });
  std::unique_lock lock(impl.mutex);
  impl.done.wait(lock, [&] { return impl.busy_workers == 0; });
  // The lowest chunk's failure, so that the message does not depend on timing.
  for (const auto& failure : impl.failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

}  // namespace fbi
