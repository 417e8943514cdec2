#include "fbi/eval/compare.h"

#include <algorithm>
#include <cmath>
#include <span>
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

void check_finite(std::span<const float> logits, const LanguageModel& model,
                  std::string_view which) {
  for (const float logit : logits) {
    if (!std::isfinite(logit)) {
      throw DataError(concat("the ", which, " model (", model.dtype_description(),
                             ") returned a logit of ", logit));
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

}  // namespace

LogitComparison compare_logits(LanguageModel& reference, LanguageModel& candidate,
                               const WindowSource& windows) {
  const std::int64_t vocab = reference.vocab_size();
  if (vocab != candidate.vocab_size()) {
    throw UsageError(concat("models with vocabularies of ", vocab, " and ", candidate.vocab_size(),
                            " cannot be compared"));
  }
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
    check_finite(expected, reference, "reference");
    check_finite(found, candidate, "compared");
    for (std::int64_t s = 0; s < windows.length; ++s) {
      compare_position(std::span(expected).subspan(s * vocab, vocab),
                       std::span(found).subspan(s * vocab, vocab), total);
    }
  }
  total.mean_kl /= static_cast<double>(total.positions);
  total.same_top /= static_cast<double>(total.positions);
  return total;
}

}  // namespace fbi::eval
