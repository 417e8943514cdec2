#include "fbi/eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <nlohmann/json.hpp>

#include "eval/option_checks.h"
#include "fbi/core/error.h"

namespace fbi::eval {
namespace {

struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

/// Never more than there are windows, so that room for a batch is no more than is needed.
std::int64_t batch_of(std::int64_t windows, const PerplexityOptions& options) {
  return std::clamp<std::int64_t>(options.batch, 1, std::max<std::int64_t>(windows, 1));
}

/// Windows [begin, end) of a part: a run of whole batches, sizes differing by at most one batch.
Range part_range(std::int64_t windows, const PerplexityOptions& options) {
  const std::int64_t batch = batch_of(windows, options);
  const std::int64_t batches = (windows + batch - 1) / batch;
  const std::int64_t small = batches / options.parts, larger = batches % options.parts;
  const std::int64_t first = options.part * small + std::min<std::int64_t>(options.part, larger);
  const std::int64_t last = first + small + (options.part < larger ? 1 : 0);
  return {std::min(first * batch, windows), std::min(last * batch, windows)};
}

void check(const WindowSource& windows, std::int64_t max_position,
           const PerplexityOptions& options) {
  if (windows.length < 2) {
    throw UsageError(
        concat("a window needs at least 2 tokens to hold a prediction, found ", windows.length));
  }
  // The last id of a window is only predicted, never fed.
  if (windows.length - 1 > max_position) {
    throw UsageError(concat("windows of ", windows.length, " tokens need ", windows.length - 1,
                            " positions, but the model supports ", max_position,
                            "; use a shorter seq_len"));
  }
  if (windows.count < 1) throw UsageError("there is no window of tokens to evaluate");
  check_batch_and_part(options.batch, options.part, options.parts);
  if (options.max_windows < 0) {
    throw UsageError(
        concat("max_windows must be 0 (all) or positive, found ", options.max_windows));
  }
}

void check_ids(std::span<const std::int32_t> ids, std::int64_t window, std::int64_t vocab_size) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      throw DataError(concat("window ", window, ", position ", i, ": token id ", ids[i],
                             " is outside the model's vocabulary of ", vocab_size,
                             "; the text was tokenized for another model"));
    }
  }
}

double window_mean(std::span<const float> nll, std::int64_t window, const LanguageModel& model,
                   bool allow_non_finite) {
  double sum = 0;
  for (std::size_t i = 0; i < nll.size(); ++i) {
    if (!allow_non_finite && !std::isfinite(nll[i])) {
      throw DataError(concat("window ", window, ", prediction ", i, ": negative log-likelihood is ",
                             nll[i], " (model in ", model.dtype_description(),
                             "); try dtype fp32, or the weights are broken"));
    }
    sum += nll[i];
  }
  return sum / static_cast<double>(nll.size());
}

double mean(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return values.empty() ? std::numeric_limits<double>::quiet_NaN()
                        : sum / static_cast<double>(values.size());
}

std::int64_t windows_of(const WindowSource& windows, const PerplexityOptions& options) {
  return options.max_windows > 0 ? std::min(options.max_windows, windows.count) : windows.count;
}

}  // namespace

void summarize(PerplexityResult& result, std::int64_t window_length) {
  result.windows = static_cast<std::int64_t>(result.window_nll.size());
  result.tokens = result.windows * window_length;
  result.mean_nll = mean(result.window_nll);
  result.perplexity = std::exp(result.mean_nll);
}

void check_windows(const WindowSource& windows, std::int64_t vocab_size, std::int64_t max_position,
                   const PerplexityOptions& options) {
  check(windows, max_position, options);
  const Range range = part_range(windows_of(windows, options), options);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(windows.length));
  for (std::int64_t window = range.begin; window < range.end; ++window) {
    windows.read(window, ids);
    check_ids(ids, window, vocab_size);
  }
}

PerplexityResult perplexity(LanguageModel& model, const WindowSource& windows,
                            const PerplexityOptions& options) {
  check(windows, model.max_position(), options);
  PerplexityResult result;
  result.dtype = model.dtype_description();
  result.windows_total = windows_of(windows, options);
  const Range range = part_range(result.windows_total, options);
  result.first_window = range.begin;
  result.window_nll.reserve(static_cast<std::size_t>(range.end - range.begin));

  const std::int64_t length = windows.length;
  const std::int64_t largest = batch_of(result.windows_total, options);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(largest * length));
  double sum = 0;
  std::vector<float> nll(static_cast<std::size_t>(largest * (length - 1)));
  for (std::int64_t begin = range.begin; begin < range.end; begin += largest) {
    const std::int64_t batch = std::min(largest, range.end - begin);
    for (std::int64_t b = 0; b < batch; ++b) {
      const auto row = std::span(tokens).subspan(b * length, length);
      windows.read(begin + b, row);
      check_ids(row, begin + b, model.vocab_size());
    }
    model.token_nll(std::span(tokens).first(batch * length), batch, length,
                    std::span(nll).first(batch * (length - 1)));
    for (std::int64_t b = 0; b < batch; ++b) {
      const auto row = std::span<const float>(nll).subspan(b * (length - 1), length - 1);
      result.window_nll.push_back(window_mean(row, begin + b, model, options.allow_non_finite));
      sum += result.window_nll.back();
    }
    if (options.on_progress) {
      const std::int64_t done = begin + batch - range.begin;
      options.on_progress({done, range.end - range.begin, sum / static_cast<double>(done)});
    }
  }
  summarize(result, length);
  return result;
}

std::string to_json(const PerplexityResult& result) {
  const nlohmann::ordered_json json = {{"perplexity", result.perplexity},
                                       {"mean_nll", result.mean_nll},
                                       {"windows", result.windows},
                                       {"tokens", result.tokens},
                                       {"dtype", result.dtype}};
  return json.dump();
}

}  // namespace fbi::eval
