#include "fbi/infer/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "fbi/core/error.h"

namespace fbi::infer {
namespace {

// Keeps draws apart from other uses of a seed.
constexpr std::uint64_t kSamplerStream = 0x73616d706c6572;

template <class Value>
void require(bool holds, const char* name, const char* range, Value found) {
  if (!holds) throw UsageError(concat(name, " must be ", range, ", found ", found));
}

}  // namespace

void validate(const SamplerOptions& options) {
  const auto finite = [](double value) { return std::isfinite(value); };
  require(finite(options.temperature) && options.temperature >= 0, "temperature",
          "a finite number >= 0 (0 is greedy)", options.temperature);
  require(options.top_k >= 0, "top_k", ">= 0 (0 is off)", options.top_k);
  require(options.top_p > 0 && options.top_p <= 1, "top_p", "in (0, 1] (1 is off)", options.top_p);
  require(options.min_p >= 0 && options.min_p <= 1, "min_p", "in [0, 1] (0 is off)", options.min_p);
  require(options.repetition_penalty >= 0.01 && options.repetition_penalty <= 100,
          "repetition_penalty", "in [0.01, 100] (1 is off)", options.repetition_penalty);
  require(std::abs(options.frequency_penalty) <= 2, "frequency_penalty", "in [-2, 2] (0 is off)",
          options.frequency_penalty);
  require(std::abs(options.presence_penalty) <= 2, "presence_penalty", "in [-2, 2] (0 is off)",
          options.presence_penalty);
}

Sampler::Sampler(const SamplerOptions& options)
    : options_(options), random_(options.seed, kSamplerStream) {
  validate(options);
}

std::optional<eval::Drawable> Sampler::drawable(std::int64_t ids, std::size_t history,
                                                std::size_t given) const {
  const bool greedy = options_.temperature == 0;
  eval::Drawable wanted = {.ids = ids};
  if (!greedy && options_.top_k > 0) {
    wanted.highest = std::min(options_.top_k, ids);
  } else if (!greedy && options_.top_p == 1 && options_.min_p > 0) {
    // A little more, since exp() rounds.
    wanted.within = (1e-12 - std::log(options_.min_p)) * options_.temperature;
  } else if (!greedy) {
    return std::nullopt;
  }
  // Penalties lower logits of tokens in the history: as many more that others may overtake.
  const bool repetition = options_.repetition_penalty != 1;
  const bool drawn = options_.frequency_penalty != 0 || options_.presence_penalty != 0;
  if (options_.repetition_penalty < 1 || options_.frequency_penalty < 0 ||
      options_.presence_penalty < 0) {
    return std::nullopt;
  }
  if (repetition || drawn) {
    wanted.highest += static_cast<std::int64_t>(repetition ? history : history - given);
  }
  return wanted;
}

std::int32_t Sampler::next(std::span<const float> logits, std::span<const std::int32_t> history,
                           std::size_t given) {
  for (std::size_t id = 0; id < logits.size(); ++id) {
    if (std::isnan(logits[id]) || logits[id] == std::numeric_limits<float>::infinity()) {
      throw DataError(concat("the model's logit of token ", id, " is ", logits[id],
                             "; try dtype fp32, or the weights are broken"));
    }
  }
  logits_.assign(logits.begin(), logits.end());
  penalize_repetition(history);
  penalize_drawn(history.subspan(given));
  const auto best = std::ranges::max_element(logits_);  // the first of equals
  if (best == logits_.end() || std::isinf(*best)) {
    throw DataError("the model excludes every token: all logits are -infinity");
  }
  if (options_.temperature == 0) return static_cast<std::int32_t>(best - logits_.begin());

  ids_.clear();
  weights_.clear();
  if (options_.top_k > 0 || options_.top_p < 1) {
    weigh_most_likely(*best);
  } else {
    weigh_all(*best);
  }
  return draw();
}

void Sampler::penalize_repetition(std::span<const std::int32_t> history) {
  if (options_.repetition_penalty == 1.0) return;
  repeated_.assign(history.begin(), history.end());
  std::ranges::sort(repeated_);
  const auto duplicates = std::ranges::unique(repeated_);
  repeated_.erase(duplicates.begin(), duplicates.end());
  for (const std::int32_t id : repeated_) {
    if (id < 0 || static_cast<std::size_t>(id) >= logits_.size()) continue;
    double& logit = logits_[static_cast<std::size_t>(id)];
    logit = logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
  }
}

void Sampler::penalize_drawn(std::span<const std::int32_t> drawn) {
  if (options_.frequency_penalty == 0 && options_.presence_penalty == 0) return;
  repeated_.assign(drawn.begin(), drawn.end());
  std::ranges::sort(repeated_);
  for (auto first = repeated_.begin(); first != repeated_.end();) {
    const auto next = std::upper_bound(first, repeated_.end(), *first);
    if (*first >= 0 && static_cast<std::size_t>(*first) < logits_.size()) {
      logits_[static_cast<std::size_t>(*first)] -=
          options_.frequency_penalty * static_cast<double>(next - first) +
          options_.presence_penalty;
    }
    first = next;
  }
}

/// Relative to the most likely token, whose weight is exactly 1.
double Sampler::weight(double logit, double maximum) const {
  return std::exp((logit - maximum) / options_.temperature);
}

void Sampler::weigh_all(double maximum) {
  for (std::size_t id = 0; id < logits_.size(); ++id) {
    const double w = weight(logits_[id], maximum);
    if (w < options_.min_p) continue;
    ids_.push_back(static_cast<std::int32_t>(id));
    weights_.push_back(w);
  }
}

/// Takes tokens off a heap, most likely first, so that the usual few cost far less than sorting the
/// vocabulary.
void Sampler::weigh_most_likely(double maximum) {
  const auto less_likely = [this](std::int32_t a, std::int32_t b) {
    const double x = logits_[static_cast<std::size_t>(a)], y = logits_[static_cast<std::size_t>(b)];
    return x != y ? x < y : a > b;
  };
  heap_.resize(logits_.size());
  for (std::size_t id = 0; id < heap_.size(); ++id) heap_[id] = static_cast<std::int32_t>(id);
  std::ranges::make_heap(heap_, less_likely);

  // top_p counts the probability of what top_k leaves.
  std::size_t limit = heap_.size();
  double reach = std::numeric_limits<double>::infinity();
  if (options_.top_k > 0) {
    limit = std::min(limit, static_cast<std::size_t>(options_.top_k));
  } else {
    reach = 0;
    for (const double logit : logits_) reach += weight(logit, maximum);
    reach *= options_.top_p;
  }
  double sum = 0;
  while (ids_.size() < limit && sum < reach) {
    std::ranges::pop_heap(heap_, less_likely);
    ids_.push_back(heap_.back());
    heap_.pop_back();
    weights_.push_back(weight(logits_[static_cast<std::size_t>(ids_.back())], maximum));
    sum += weights_.back();
  }

  std::size_t kept = weights_.size();
  if (options_.top_k > 0 && options_.top_p < 1) {
    double reached = 0;
    for (kept = 0; kept < weights_.size() && reached < options_.top_p * sum; ++kept) {
      reached += weights_[kept];
    }
  }
  while (weights_[kept - 1] < options_.min_p) --kept;  // ends: the first weight is 1
  ids_.resize(kept);
  weights_.resize(kept);
}

std::int32_t Sampler::draw() {
  double total = 0;
  for (const double w : weights_) total += w;
  const double point = random_.next_double() * total;
  double reached = 0;
  std::int32_t chosen = ids_.front();
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i] == 0) continue;
    chosen = ids_[i];  // stays the last possible one should rounding put `point` at `total`
    reached += weights_[i];
    if (point < reached) break;
  }
  return chosen;
}

}  // namespace fbi::infer
