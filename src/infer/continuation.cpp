#include "infer/continuation.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "fbi/core/error.h"

namespace fbi::infer {

Continuation::Continuation(const text::Tokenizer& tokenizer, const eval::LanguageModel& model,
                           const GenerateOptions& options, std::vector<std::int32_t> prompt,
                           std::function<void(std::string_view)> on_text)
    : max_new_tokens_(options.max_new_tokens),
      max_position_(model.max_position()),
      on_text_(std::move(on_text)),
      sampler_(options.sampling),
      stop_(options.stop,
            [this](std::string_view piece) {
              result_.text += piece;
              if (on_text_) on_text_(piece);
            }),
      decoder_(tokenizer.start_decoding()),
      eos_ids_(options.eos_ids),
      ids_(std::move(prompt)),
      drawn_vocab_(static_cast<std::size_t>(std::min(model.vocab_size(), tokenizer.vocab_size()))) {
  if (max_new_tokens_ < 0) {
    throw UsageError(concat("max_new_tokens must be >= 0, found ", max_new_tokens_));
  }
  eos_ids_.push_back(tokenizer.eos_id());
  if (options.ignore_eos) eos_ids_.clear();
  result_.prompt_tokens = static_cast<std::int64_t>(ids_.size());
  for (const std::int32_t id : ids_) {  // the prompt's own text is not repeated
    if (id < tokenizer.vocab_size()) decoder_->feed(id);
  }
  end_where_full();
}

std::optional<eval::Drawable> Continuation::drawable() const {
  if (score_best_) return std::nullopt;
  return sampler_.drawable(static_cast<std::int64_t>(drawn_vocab_), ids_.size(),
                           static_cast<std::size_t>(result_.prompt_tokens));
}

void Continuation::draw(std::span<const float> logits) {
  const std::int32_t id = sampler_.next(logits.first(drawn_vocab_), ids_,
                                        static_cast<std::size_t>(result_.prompt_tokens));
  if (score_best_) add_score(id, logits);
  if (std::ranges::count(eos_ids_, id) > 0) return end(FinishReason::kEos);
  ids_.push_back(id);
  result_.ids.push_back(id);
  result_.new_tokens = std::ssize(result_.ids);
  if (stop_.push(decoder_->feed(id))) {
    result_.finish_reason = FinishReason::kStop;
    ended_ = true;
    return;
  }
  end_where_full();
}

void Continuation::score(std::int64_t position, std::span<const float> logits) {
  add_score(ids_[static_cast<std::size_t>(position + 1)], logits);
}

void Continuation::add_score(std::int32_t id, std::span<const float> logits) {
  const std::span<const float> known = logits.first(drawn_vocab_);
  const double largest = *std::ranges::max_element(known);
  double sum = 0;
  for (const float logit : known) sum += std::exp(logit - largest);
  const double normalizer = largest + std::log(sum);
  std::vector<std::int32_t> order(known.size());
  std::iota(order.begin(), order.end(), 0);
  const auto count = std::min(*score_best_, std::ssize(order));
  std::ranges::partial_sort(order, order.begin() + count, [known](std::int32_t a, std::int32_t b) {
    return known[a] != known[b] ? known[a] > known[b] : a < b;
  });
  TokenScore score = {id, logits[id] - normalizer, {}};
  for (const std::int32_t best : std::span(order).first(static_cast<std::size_t>(count))) {
    score.best.emplace_back(best, known[best] - normalizer);
  }
  result_.scores.push_back(std::move(score));
}

void Continuation::end_where_full() {
  if (result_.new_tokens >= max_new_tokens_) {
    end(FinishReason::kLength);
  } else if (std::ssize(ids_) >= max_position_) {
    end(FinishReason::kContext);
  }
}

/// With what the decoder and the stop strings held back; of a prompt's last bytes nothing is new.
void Continuation::end(FinishReason reason) {
  ended_ = true;
  if (result_.new_tokens > 0 && stop_.push(decoder_->finish())) {
    result_.finish_reason = FinishReason::kStop;
  } else {
    result_.finish_reason = reason;
    stop_.finish();
  }
}

}  // namespace fbi::infer
