#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "fbi/eval/language_model.h"
#include "fbi/eval/windows.h"

/// Perplexity by the published method: windows of equal length, each evaluated on its own; the mean
/// of a window's negative log-likelihoods is taken first, then the mean over windows; perplexity is
/// its exponential.
namespace fbi::eval {

struct PerplexityProgress {
  std::int64_t windows_done = 0;
  std::int64_t windows_total = 0;  ///< of this part
  double mean_nll = 0;             ///< over the windows done
};

struct PerplexityOptions {
  std::int64_t batch = 1;        ///< windows per forward
  std::int64_t max_windows = 0;  ///< 0: all
  /// This call evaluates part `part` of `parts`. Parts are cut between batches, so that every
  /// forward sees the same rows as in an undivided run and the parts together are bit-identical to
  /// it.
  int part = 0;
  int parts = 1;
  /// A log-likelihood that is not finite is a result (NaN), not an error: during training.
  bool allow_non_finite = false;
  std::function<void(const PerplexityProgress&)> on_progress;  ///< after each forward
};

struct PerplexityResult {
  double perplexity = 0;  ///< exp(mean_nll); NaN, like mean_nll, for a part that got no window
  double mean_nll = 0;    ///< mean over windows of the mean over predictions, natural logarithm
  std::int64_t windows = 0;
  std::int64_t tokens = 0;  ///< ids in those windows: windows * window length
  std::string dtype;        ///< the model's dtype_description()

  std::int64_t first_window = 0;   ///< position of this part in the whole
  std::int64_t windows_total = 0;  ///< of the whole
  std::vector<double> window_nll;  ///< mean of each window of this part, in order
};

/// Reads what `perplexity` would read of this part and throws as it would, without a model: a
/// training run does this before it starts.
void check_windows(const WindowSource& windows, std::int64_t vocab_size, std::int64_t max_position,
                   const PerplexityOptions& options = {});

/// Throws UsageError when the options or the window length do not fit the model, DataError on an id
/// outside the vocabulary and on a log-likelihood that is not finite.
PerplexityResult perplexity(LanguageModel& model, const WindowSource& windows,
                            const PerplexityOptions& options = {});

/// Sets what follows from window_nll: windows, tokens, mean_nll and perplexity. From those of all
/// parts, in order, it makes the bits of the evaluation as a whole.
void summarize(PerplexityResult& result, std::int64_t window_length);

/// {"perplexity", "mean_nll", "windows", "tokens", "dtype"}, numbers that round-trip.
std::string to_json(const PerplexityResult& result);

}  // namespace fbi::eval
