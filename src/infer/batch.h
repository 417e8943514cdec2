#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "fbi/kernels/cuda.h"
#include "infer/continuation.h"
#include "infer/forward.h"

namespace fbi::infer {

/// A text whose keys and values others may take over as far as they begin like it.
struct Prefix {
  std::span<const std::int32_t> ids;
  const SequenceCache* cache = nullptr;
  /// Where its prompt is scored, with how many alternatives; [p] is the score of ids[p + 1].
  std::optional<std::int64_t> score_best = {};
  std::span<const TokenScore> scores = {};
};

/// A text that a Batch continues.
struct Sequence {
  /// Tokens in common that are worth a copy, or waiting for another text: kernels take as many rows
  /// at once, so feeding fewer hardly costs less.
  static constexpr std::int64_t kLeastPrefix = 16;

  Sequence(const text::Tokenizer& tokenizer, const eval::LanguageModel& model,
           const GenerateOptions& options, std::vector<std::int32_t> prompt,
           std::function<void(std::string_view)> on_text,
           std::unique_ptr<SequenceCache> empty_cache)
      : continuation(tokenizer, model, options, std::move(prompt), std::move(on_text)),
        cache(std::move(empty_cache)) {}

  Continuation continuation;
  std::unique_ptr<SequenceCache> cache;
  std::int64_t fed = 0;        ///< of continuation.ids()
  std::int64_t last_turn = 0;  ///< when Batch gave it rows for its prompt, or saw it first
  bool score_prompt = false;   ///< the prompt is to be fed to its end in any case
  std::exception_ptr error;    ///< what ended it before its time

  std::int64_t pending() const { return std::ssize(continuation.ids()) - fed; }
  bool ended() const {
    const bool scored = !score_prompt || fed >= continuation.prompt_tokens();
    return error || (continuation.ended() && scored);
  }

  /// Nothing has been fed of a prompt of several tokens.
  bool unread() const { return fed == 0 && pending() > 1; }

  /// Itself, for others. Not all ids may have been fed.
  Prefix prefix() const;
  /// How many tokens of its prompt it need not feed if it takes over those of `prefix`; 0: too few.
  std::int64_t shared_with(const Prefix& prefix) const;
  /// Takes over as many, which have been fed there.
  void take(const Prefix& prefix, std::int64_t count);
};

/// Continues several sequences together. Each gets the tokens that generate() gives it alone,
/// whatever stands beside it, because Forward's rows do not depend on each other.
class Batch {
 public:
  /// `free_memory` frees some when a sequence's keys and values find none; false: there is nothing
  /// to free.
  Batch(Forward& forward, std::int64_t vocab_size, ParallelFor& parallel,
        std::function<bool()> free_memory = {});

  /// Gives every sequence that is behind its prompt one more token, and prompts share
  /// Forward::kMaxRows rows: so a long prompt holds up neither texts nor other prompts. What goes
  /// wrong with a sequence ends it alone; an error of the GPU (CudaError) is no sequence's, and is
  /// thrown.
  void step(std::span<Sequence* const> sequences);

  /// Calls work() again as long as it finds no memory and some can be freed. An error of the GPU
  /// passes at once.
  template <class Work>
  auto with_memory(const Work& work) const {
    for (;;) {
      try {
        return work();
      } catch (const kernels::cuda::CudaError&) {
        throw;
      } catch (...) {
        if (!free_memory_ || !free_memory_()) throw;
      }
    }
  }

 private:
  /// Rows of a prompt that is not alone, at least: kernels take as many at once.
  static constexpr std::int64_t kLeastShare = 16;

  struct Part {
    Sequence* sequence;
    std::int64_t count;  // of its pending tokens
  };
  void share_rows(std::span<Sequence* const> sequences);
  void add(Sequence& sequence, std::int64_t count);
  void flush();
  void run(std::span<const Part> parts);
  void feed(std::span<const Part> parts);
  void read_logits(std::int64_t count);
  void hear();
  void hear(std::size_t row);

  Forward& forward_;
  std::int64_t vocab_size_;
  ParallelFor& parallel_;
  std::function<bool()> free_memory_;
  std::int64_t turns_ = 0;
  std::vector<Part> prompts_;  // what a step gives to each
  std::vector<Part> parts_;    // of the next run
  std::int64_t part_rows_ = 0;
  std::vector<TokenRow> rows_, silent_rows_;
  std::vector<Sequence*> heard_;  // whose logits those of the first rows are
  std::vector<eval::Drawable> drawable_;
  std::vector<std::size_t> speakers_;  // where in heard_ a sequence begins, and the end
  std::vector<float> logits_;          // [kMaxRows, V]
};

}  // namespace fbi::infer
