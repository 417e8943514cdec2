#include "fbi/eval/compare.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fbi/core/error.h"

namespace fbi::eval {
namespace {

void check_window(const LanguageModel& model, std::int64_t length) {
  if (length < 1 || length > model.max_position()) {
    throw UsageError(concat("windows to compare on must have 1 to ", model.max_position(),
                            " tokens, found ", length));
  }
}

void check_vocabularies(std::int64_t reference, std::int64_t candidate) {
  if (reference == candidate) return;
  throw UsageError(
      concat("models with vocabularies of ", reference, " and ", candidate, " cannot be compared"));
}

void check_finite(std::span<const float> logits, const std::string& dtype, std::string_view which) {
  for (const float logit : logits) {
    if (!std::isfinite(logit)) {
      throw DataError(concat("the ", which, " model (", dtype, ") returned a logit of ", logit));
    }
  }
}

double log_sum_exp(std::span<const float> logits) {
  const double maximum = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - maximum);
  return maximum + std::log(sum);
}

void compare_position(std::span<const float> reference, std::span<const float> candidate,
                      LogitComparison& total) {
  const double reference_norm = log_sum_exp(reference), candidate_norm = log_sum_exp(candidate);
  double kl = 0;
  for (std::size_t v = 0; v < reference.size(); ++v) {
    const double log_p = reference[v] - reference_norm, log_q = candidate[v] - candidate_norm;
    kl += std::exp(log_p) * (log_p - log_q);
    const double difference = std::abs(static_cast<double>(reference[v]) - candidate[v]);
    total.max_abs_difference = std::max(total.max_abs_difference, difference);
  }
  const auto top = [](std::span<const float> row) {
    return std::ranges::max_element(row) - row.begin();
  };
  total.mean_kl += kl;  // sums until the end
  total.max_kl = std::max(total.max_kl, kl);
  total.same_top += top(reference) == top(candidate);
  ++total.positions;
}

/// [positions, vocab] each.
void compare_positions(std::span<const float> reference, std::span<const float> candidate,
                       std::int64_t vocab, LogitComparison& total) {
  const auto width = static_cast<std::size_t>(vocab);
  for (std::size_t at = 0; at < reference.size(); at += width)
    compare_position(reference.subspan(at, width), candidate.subspan(at, width), total);
}

LogitComparison means_of(LogitComparison sums) {
  sums.mean_kl /= static_cast<double>(sums.positions);
  sums.same_top /= static_cast<double>(sums.positions);
  return sums;
}

}  // namespace

LogitComparison compare_logits(LanguageModel& reference, LanguageModel& candidate,
                               const WindowSource& windows) {
  const std::int64_t vocab = reference.vocab_size();
  check_vocabularies(vocab, candidate.vocab_size());
  check_window(reference, windows.length);
  check_window(candidate, windows.length);

  std::vector<std::int32_t> ids(static_cast<std::size_t>(windows.length));
  std::vector<float> expected(static_cast<std::size_t>(windows.length * vocab));
  std::vector<float> found(expected.size());
  LogitComparison total;
  for (std::int64_t window = 0; window < windows.count; ++window) {
    windows.read(window, ids);
    reference.logits(ids, 1, windows.length, expected);
    candidate.logits(ids, 1, windows.length, found);
    check_finite(expected, reference.dtype_description(), "reference");
    check_finite(found, candidate.dtype_description(), "compared");
    compare_positions(expected, found, vocab, total);
  }
  return means_of(total);
}

KeptLogits keep_logits(LanguageModel& model, const WindowSource& windows) {
  check_window(model, windows.length);
  KeptLogits kept{model.dtype_description(), model.vocab_size(), {}};
  const auto count = static_cast<std::size_t>(windows.length * kept.vocab_size);
  kept.values.resize(static_cast<std::size_t>(windows.count) * count);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(windows.length));
  for (std::int64_t window = 0; window < windows.count; ++window) {
    windows.read(window, ids);
    model.logits(ids, 1, windows.length,
                 std::span(kept.values).subspan(static_cast<std::size_t>(window) * count, count));
  }
  return kept;
}

LogitComparison compare_logits(const KeptLogits& reference, const KeptLogits& candidate) {
  check_vocabularies(reference.vocab_size, candidate.vocab_size);
  if (reference.values.size() != candidate.values.size()) {
    throw UsageError(concat("logits of ", reference.values.size(), " and ", candidate.values.size(),
                            " numbers are not of the same windows"));
  }
  check_finite(reference.values, reference.dtype, "reference");
  check_finite(candidate.values, candidate.dtype, "compared");
  LogitComparison total;
  compare_positions(reference.values, candidate.values, reference.vocab_size, total);
  return means_of(total);
}

}  // namespace fbi::eval
