#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fbi/eval/language_model.h"
#include "fbi/eval/windows.h"

namespace fbi::eval {

/// How far the predictions of two models are apart.
struct LogitComparison {
  double max_abs_difference = 0;  ///< of any logit
  double mean_kl = 0;             ///< KL(reference || candidate) in nats, mean over positions
  double max_kl = 0;
  /// Share of positions with the same most likely token (the first of equals).
  double same_top = 0;
  std::int64_t positions = 0;
};

/// Over all positions of all windows. Throws UsageError when vocabulary or context do not fit,
/// DataError on a logit that is not finite.
LogitComparison compare_logits(LanguageModel& reference, LanguageModel& candidate,
                               const WindowSource& windows);

/// The logits of all positions of all windows, for when their model is no longer there: models that
/// do not fit into memory together are compared one after the other.
struct KeptLogits {
  std::string dtype;  ///< the model's dtype_description()
  std::int64_t vocab_size = 0;
  std::vector<float> values;  ///< [positions, vocab_size]
};

/// UsageError when the windows do not fit the model's context.
KeptLogits keep_logits(LanguageModel& model, const WindowSource& windows);

/// Of the same windows; throws as above.
LogitComparison compare_logits(const KeptLogits& reference, const KeptLogits& candidate);

}  // namespace fbi::eval
