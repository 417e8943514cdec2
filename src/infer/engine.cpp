#include "fbi/infer/engine.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <thread>
#include <utility>

#include "fbi/core/log.h"
#include "fbi/kernels/cuda.h"
#include "infer/batch.h"
#include "infer/packed_model_impl.h"
#include "infer/prefix_cache.h"

namespace fbi::infer {

using Clock = std::chrono::steady_clock;

// ---- Generation: what the engine's thread writes and those who asked read

class Generation::Impl {
 public:
  explicit Impl(std::size_t count) : texts_(count) {}

  void add(std::size_t index, std::string_view text) {
    const std::lock_guard lock(mutex_);
    texts_[index].news += text;
    changed_.notify_all();
  }
  void end(std::size_t index, GenerateResult result, std::exception_ptr error) {
    const std::lock_guard lock(mutex_);
    texts_[index].result = std::move(result);
    texts_[index].error = std::move(error);
    texts_[index].ended = true;
    changed_.notify_all();
  }

  std::vector<News> wait(std::chrono::milliseconds limit) {
    std::unique_lock lock(mutex_);
    const auto has_news = [](const Text& text) {
      return !text.news.empty() || (text.ended && !text.told);
    };
    changed_.wait_for(lock, limit, [&] { return std::ranges::any_of(texts_, has_news); });
    std::vector<News> all;
    for (std::size_t index = 0; index < texts_.size(); ++index) {
      Text& text = texts_[index];
      if (!has_news(text)) continue;
      all.push_back({index, std::exchange(text.news, {}), text.ended});
      text.told = text.ended;
    }
    return all;
  }
  bool ended() const {
    const std::lock_guard lock(mutex_);
    return std::ranges::all_of(texts_, &Text::told);
  }
  GenerateResult result(std::size_t index) const {
    const std::lock_guard lock(mutex_);
    const Text& text = texts_.at(index);
    if (text.error) std::rethrow_exception(text.error);
    return text.result;
  }

  std::atomic<bool> cancelled = false;

 private:
  struct Text {
    std::string news;
    bool ended = false, told = false;
    GenerateResult result;
    std::exception_ptr error;
  };
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Text> texts_;
};

Generation::Generation(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Generation::~Generation() = default;

std::vector<Generation::News> Generation::wait(std::chrono::milliseconds limit) {
  return impl_->wait(limit);
}
bool Generation::ended() const {
  return impl_->ended();
}
GenerateResult Generation::result(std::size_t index) const {
  return impl_->result(index);
}
void Generation::cancel() {
  impl_->cancelled = true;
}

// ---- Engine

class Engine::Impl {
 public:
  Impl(PackedModel& model, const text::Tokenizer& tokenizer, const EngineOptions& options)
      : model_(model),
        tokenizer_(tokenizer),
        options_(options),
        prefixes_(options.prefix_cache_bytes),
        batch_(model.impl_->forward(), model.vocab_size(), model.impl_->team().pool(),
               [this] { return prefixes_.give_up(); }) {
    check("max_batch", options.max_batch, 1, 256);
    check("queue", options.queue, 0, 65536);
    thread_ = std::thread([this] { work(); });
  }
  ~Impl() { stop({}); }

  std::shared_ptr<Generation> submit(const std::vector<EngineRequest>& requests);

  Load load() const {
    const std::lock_guard lock(mutex_);
    return {std::ssize(running_), std::ssize(waiting_), stopping_, failure_};
  }

  void stop(std::chrono::milliseconds limit) {
    {
      std::unique_lock lock(mutex_);
      stopping_ = true;
      if (limit.count() > 0) {  // the shortest wait lets go of the mutex, too
        idle_.wait_for(lock, limit, [this] { return waiting_.empty() && running_.empty(); });
      }
      quitting_ = true;
      changed_.notify_all();
    }
    if (thread_.joinable()) thread_.join();
  }

 private:
  struct Job {
    std::shared_ptr<Generation> generation;
    std::size_t index;
    std::unique_ptr<Sequence> sequence;
    std::uint64_t cache_bytes;  // that its longest form takes
    bool waits = false;         // for what another one is just reading
    Clock::time_point submitted = Clock::now();
    std::optional<Clock::time_point> begun = {};  // when the first token was there
  };

  static void check(const char* name, std::int64_t value, std::int64_t least, std::int64_t most) {
    if (value >= least && value <= most) return;
    throw UsageError(concat(name, ": expected ", least, " to ", most, ", found ", value));
  }

  void work();
  void take_in();
  void take_out();
  void step();
  void share_prefixes();
  bool take_prefix(std::span<const Job> before, Sequence& sequence);
  void keep_prefix(Job& job);  // leaves the sequence without its cache
  void finish(Job& job);       // leaves job.sequence empty

  PackedModel& model_;
  const text::Tokenizer& tokenizer_;
  const EngineOptions options_;
  PrefixCache prefixes_;
  Batch batch_;

  mutable std::mutex mutex_;
  std::condition_variable changed_, idle_;
  bool stopping_ = false;  // takes no more requests
  bool quitting_ = false;  // ends those that it has
  std::string failure_;    // of the GPU
  std::deque<Job> waiting_;
  std::vector<Job> running_;  // changed by thread_ alone, with the mutex held

  std::thread thread_;
};

std::shared_ptr<Generation> Engine::Impl::submit(const std::vector<EngineRequest>& requests) {
  const std::int64_t room = options_.queue + options_.max_batch, count = std::ssize(requests);
  if (count == 0 || count > room) {
    throw UsageError(concat("expected 1 to ", room, " texts in one request, found ", count));
  }
  const std::shared_ptr<Generation> generation(
      new Generation(std::make_unique<Generation::Impl>(requests.size())));
  std::vector<Job> jobs;
  for (std::size_t index = 0; index < requests.size(); ++index) {
    const EngineRequest& request = requests[index];
    check_prompt(model_, request.prompt);
    const std::int64_t read = std::ssize(request.prompt);
    const std::int64_t most = read + std::clamp<std::int64_t>(request.options.max_new_tokens, 0,
                                                              model_.max_position() - read);
    auto cache = model_.impl_->forward().new_cache(most);
    const std::uint64_t cache_bytes = static_cast<std::uint64_t>(most) * cache->position_bytes();
    Generation::Impl* const texts = generation->impl_.get();  // the job holds the generation
    jobs.push_back(
        {generation, index,
         std::make_unique<Sequence>(
             tokenizer_, model_, request.options, request.prompt,
             [texts, index](std::string_view text) { texts->add(index, text); }, std::move(cache)),
         cache_bytes});
    Sequence& sequence = *jobs.back().sequence;
    if (request.score_best) {
      if (*request.score_best < 0) throw UsageError("score_best must be >= 0");
      sequence.continuation.keep_scores(*request.score_best);
      sequence.score_prompt = request.score_prompt;
    }
  }
  const std::lock_guard lock(mutex_);
  if (!failure_.empty()) throw kernels::cuda::CudaError(failure_);
  if (stopping_) throw BusyError("no more requests are taken: the engine is being stopped");
  if (std::ssize(waiting_) + std::ssize(running_) + count > room) {
    throw BusyError(concat("busy: ", running_.size(), " texts are being written and ",
                           waiting_.size(), " are waiting, of at most ", options_.max_batch,
                           " and ", options_.queue, "; try again later"));
  }
  for (Job& job : jobs) waiting_.push_back(std::move(job));
  changed_.notify_all();
  return generation;
}

void Engine::Impl::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return quitting_ || !waiting_.empty() || !running_.empty(); });
    take_out();
    take_in();
    if (running_.empty()) {  // then nothing waits either
      idle_.notify_all();
      if (quitting_) return;
      continue;
    }
    lock.unlock();
    step();
    lock.lock();
  }
}

void Engine::Impl::take_in() {
  std::uint64_t taken = 0;
  for (const Job& job : running_) taken += job.cache_bytes;
  while (!waiting_.empty() && std::ssize(running_) < options_.max_batch) {
    const std::uint64_t more = waiting_.front().cache_bytes;
    const bool fits = taken <= options_.cache_bytes && more <= options_.cache_bytes - taken;
    if (!fits && !running_.empty()) return;
    taken += more;
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

void Engine::Impl::step() {
  std::vector<Sequence*> sequences;
  try {
    share_prefixes();
    for (const Job& job : running_) {
      if (!job.waits) sequences.push_back(job.sequence.get());
    }
    batch_.step(sequences);
    share_prefixes();  // now also one that has ended still has its cache
  } catch (const kernels::cuda::CudaError& error) {
    const std::lock_guard lock(mutex_);
    failure_ = concat("the GPU has failed: ", error.what());
    stopping_ = quitting_ = true;
  } catch (...) {
    for (Sequence* sequence : sequences) sequence->error = std::current_exception();
  }
  for (Job& job : running_) {
    if (!job.begun && job.sequence->continuation.result().new_tokens > 0) job.begun = Clock::now();
  }
}

/// What several prompts begin with is read once: the first of those that run together reads it for
/// all.
void Engine::Impl::share_prefixes() {
  for (std::size_t index = 0; index < running_.size(); ++index) {
    Job& job = running_[index];
    job.waits = false;
    if (!job.sequence->unread() || job.sequence->ended()) continue;
    try {
      job.waits = !batch_.with_memory(
          [&] { return take_prefix(std::span(running_).first(index), *job.sequence); });
    } catch (const kernels::cuda::CudaError&) {
      throw;
    } catch (...) {  // no memory
      job.sequence->error = std::current_exception();
    }
  }
}

/// The longest that there is. False: one of those before it has not yet read all of that.
bool Engine::Impl::take_prefix(std::span<const Job> before, Sequence& sequence) {
  const auto& prompt = sequence.continuation.ids();
  auto [prefix, shared] = prefixes_.find(sequence);
  std::optional<Prefix> running;
  std::int64_t fed = shared;
  for (const Job& job : before) {
    const Sequence& other = *job.sequence;
    if (other.error || shared + 1 >= std::ssize(prompt)) continue;
    Prefix candidate = other.prefix();
    // What it draws comes too slowly to be waited for, a few tokens more are not worth a wait.
    const std::int64_t soon = std::max(other.fed, other.continuation.prompt_tokens());
    candidate.ids = candidate.ids.first(static_cast<std::size_t>(soon));
    const auto next = static_cast<std::size_t>(shared);
    if (soon <= shared || candidate.ids[next] != prompt[next]) continue;  // no longer than that
    const std::int64_t count = sequence.shared_with(candidate);
    const bool has_it = other.fed >= count;
    if (count <= shared || (!has_it && other.ended())) continue;
    if (!has_it && shared > 0 && count < shared + Sequence::kLeastPrefix) continue;
    running = candidate;
    shared = count;
    fed = other.fed;
  }
  if (fed < shared) return false;
  if (running) prefix = &*running;
  if (prefix) sequence.take(*prefix, shared);
  return true;
}

/// Lets go of what has ended, and ends what nobody wants any more.
void Engine::Impl::take_out() {
  const auto look_at = [this](Job& job) {
    const bool cancelled = job.generation->impl_->cancelled;
    if ((cancelled || quitting_) && !job.sequence->ended()) {
      keep_prefix(job);  // others may wait for it
      job.sequence->error =
          cancelled           ? std::make_exception_ptr(CancelledError("the text was given up"))
          : !failure_.empty() ? std::make_exception_ptr(kernels::cuda::CudaError(failure_))
                              : std::make_exception_ptr(CancelledError(
                                    "the text was cut off: the engine is being stopped"));
    }
    if (job.sequence->ended()) finish(job);
  };
  const auto finished = [](const Job& job) { return !job.sequence; };
  std::ranges::for_each(running_, look_at);
  std::ranges::for_each(waiting_, look_at);
  std::erase_if(running_, finished);
  std::erase_if(waiting_, finished);
}

/// With no memory for it, it is read again; a GPU that has failed shows it in the next step.
void Engine::Impl::keep_prefix(Job& job) {
  if (quitting_) return;
  try {
    prefixes_.keep(*job.sequence);
  } catch (const std::exception& error) {
    log::debug("a text's keys and values are not kept: ", error.what());
  }
}

void Engine::Impl::finish(Job& job) {
  if (!job.sequence->error) keep_prefix(job);
  GenerateResult result = std::move(job.sequence->continuation.result());
  const auto now = Clock::now();
  const auto begun = job.begun.value_or(now);
  result.prompt_seconds = std::chrono::duration<double>(begun - job.submitted).count();
  result.generate_seconds = std::chrono::duration<double>(now - begun).count();
  const std::exception_ptr error = job.sequence->error;
  job.sequence.reset();  // its cache is free before anyone hears of the end
  job.generation->impl_->end(job.index, std::move(result), error);
}

Engine::Engine(PackedModel& model, const text::Tokenizer& tokenizer, const EngineOptions& options)
    : impl_(std::make_unique<Impl>(model, tokenizer, options)) {}
Engine::~Engine() = default;

std::shared_ptr<Generation> Engine::submit(const std::vector<EngineRequest>& requests) {
  return impl_->submit(requests);
}
Engine::Load Engine::load() const {
  return impl_->load();
}
void Engine::stop(std::chrono::milliseconds limit) {
  impl_->stop(limit);
}

}  // namespace fbi::infer
