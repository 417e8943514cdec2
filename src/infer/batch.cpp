#include "infer/batch.h"

#include <algorithm>

#include "fbi/kernels/cuda.h"

namespace fbi::infer {

Prefix Sequence::prefix() const {
  Prefix prefix = {continuation.ids(), cache.get()};
  if (score_prompt) {
    prefix.score_best = continuation.score_best();
    prefix.scores = continuation.result().scores;
  }
  return prefix;
}

std::int64_t Sequence::shared_with(const Prefix& prefix) const {
  const auto prompt =
      std::span(continuation.ids()).first(static_cast<std::size_t>(continuation.prompt_tokens()));
  const std::int64_t common = std::ranges::mismatch(prompt, prefix.ids).in1 - prompt.begin();
  if (common < std::min(kLeastPrefix, std::ssize(prompt))) return 0;
  // Logits behind the last token are wanted in any case, behind all others for scores alone; and
  // the score behind the last common token is that of the next one, which differs.
  if (!score_prompt) return std::min(common, std::ssize(prompt) - 1);
  return prefix.score_best == continuation.score_best() ? common - 1 : 0;
}

void Sequence::take(const Prefix& prefix, std::int64_t count) {
  cache->reserve(count + 1);
  cache->copy(*prefix.cache, count);
  if (score_prompt) continuation.take_scores(prefix.scores.first(static_cast<std::size_t>(count)));
  continuation.result().cached_tokens = count;
  fed = count;
}

Batch::Batch(Forward& forward, std::int64_t vocab_size, ParallelFor& parallel,
             std::function<bool()> free_memory)
    : forward_(forward),
      vocab_size_(vocab_size),
      parallel_(parallel),
      free_memory_(std::move(free_memory)),
      logits_(static_cast<std::size_t>(Forward::kMaxRows * vocab_size)) {}

void Batch::step(std::span<Sequence* const> sequences) {
  for (Sequence* sequence : sequences) {
    if (!sequence->ended() && sequence->pending() == 1) add(*sequence, 1);
  }
  share_rows(sequences);
  flush();
}

/// In equal shares, what is left to the oldest prompts. Where there are too few shares, those that
/// have waited longest for one come first.
void Batch::share_rows(std::span<Sequence* const> sequences) {
  prompts_.clear();
  for (Sequence* sequence : sequences) {
    if (sequence->ended() || sequence->pending() <= 1) continue;
    if (sequence->last_turn == 0) sequence->last_turn = ++turns_;  // behind those that wait already
    prompts_.push_back({sequence, 0});
  }
  if (prompts_.empty()) return;
  const std::int64_t even = Forward::kMaxRows / std::ssize(prompts_) / kLeastShare * kLeastShare;
  const std::int64_t share = std::max(kLeastShare, even);
  std::int64_t left = Forward::kMaxRows;
  const auto give = [&left](Part& part, std::int64_t most) {
    const std::int64_t count = std::min({left, most, part.sequence->pending() - part.count});
    part.count += count;
    left -= count;
  };
  if (std::ssize(prompts_) * share > left) {
    std::ranges::stable_sort(prompts_, {},
                             [](const Part& part) { return part.sequence->last_turn; });
  }
  for (Part& part : prompts_) give(part, share);
  for (Part& part : prompts_) give(part, left);
  for (const Part& part : prompts_) {
    if (part.count == 0) continue;
    part.sequence->last_turn = ++turns_;
    add(*part.sequence, part.count);
  }
}

/// A part that does not fit into the run is cut: the run takes place, the rest goes into the next.
void Batch::add(Sequence& sequence, std::int64_t count) {
  while (count > 0) {
    const std::int64_t now = std::min(count, Forward::kMaxRows - part_rows_);
    parts_.push_back({&sequence, now});
    part_rows_ += now;
    count -= now;
    if (part_rows_ == Forward::kMaxRows) flush();
  }
}

void Batch::flush() {
  std::erase_if(parts_, [](const Part& part) { return part.sequence->error != nullptr; });
  if (!parts_.empty()) run(parts_);
  parts_.clear();
  part_rows_ = 0;
}

void Batch::run(std::span<const Part> parts) {
  try {
    feed(parts);
  } catch (const kernels::cuda::CudaError&) {
    throw;
  } catch (...) {
    if (parts.size() == 1) {
      parts[0].sequence->error = std::current_exception();
      return;
    }
    // One of them is at fault; alone it shows. Feeding the same tokens again changes nothing.
    for (const Part& part : parts) run({&part, 1});
    return;
  }
  hear();
}

/// Runs the parts; leaves the sequences whose logits are wanted in heard_, in the order of logits_.
void Batch::feed(std::span<const Part> parts) {
  rows_.clear();
  silent_rows_.clear();
  heard_.clear();
  for (const auto& [sequence, count] : parts) {
    const std::int64_t end = sequence->fed + count;
    with_memory([&] { sequence->cache->reserve(end); });
    for (std::int64_t position = sequence->fed; position < end; ++position) {
      const TokenRow row = {sequence->continuation.ids()[position], position,
                            sequence->cache.get()};
      const bool last = position + 1 == std::ssize(sequence->continuation.ids());
      if (last || sequence->score_prompt) {
        rows_.push_back(row);
        heard_.push_back(sequence);
      } else {
        silent_rows_.push_back(row);
      }
    }
  }
  const auto wanted = std::ssize(rows_);
  rows_.insert(rows_.end(), silent_rows_.begin(), silent_rows_.end());
  forward_.run(rows_);
  if (wanted > 0) read_logits(wanted);
  for (const auto& [sequence, count] : parts) sequence->fed += count;
}

/// All of them, or of every text those on which it depends what is drawn.
void Batch::read_logits(std::int64_t count) {
  drawable_.clear();
  for (const Sequence* sequence : heard_) {
    const auto drawable = sequence->continuation.drawable();
    if (!drawable || sequence->score_prompt) return forward_.logits(0, count, logits_.data());
    drawable_.push_back(*drawable);
  }
  forward_.logits_to_draw(0, drawable_, logits_.data());
}

/// What the logits say. Sequences know nothing of each other, so several threads may listen.
void Batch::hear() {
  speakers_.clear();
  for (std::size_t row = 0; row < heard_.size(); ++row) {
    if (row == 0 || heard_[row] != heard_[row - 1]) speakers_.push_back(row);
  }
  speakers_.push_back(heard_.size());
  // Logits: those of fewer are drawn from before one is awake.
  constexpr std::int64_t kWorthAThread = 8192;
  const std::int64_t grain = 1 + kWorthAThread / vocab_size_;
  parallel_.run(0, std::ssize(speakers_) - 1, grain, [this](std::int64_t begin, std::int64_t end) {
    for (std::size_t row = speakers_[begin]; row < speakers_[end]; ++row) hear(row);
  });
}

/// A score within the prompt, a new token at its end.
void Batch::hear(std::size_t row) {
  const auto vocab = static_cast<std::size_t>(vocab_size_);
  Sequence& sequence = *heard_[row];
  Continuation& continuation = sequence.continuation;
  const auto logits = std::span<const float>(logits_).subspan(row * vocab, vocab);
  try {
    if (rows_[row].position + 1 < continuation.prompt_tokens()) {
      continuation.score(rows_[row].position, logits);
    } else if (!continuation.ended()) {
      continuation.draw(logits);
    }
  } catch (...) {
    sequence.error = std::current_exception();
  }
}

}  // namespace fbi::infer
