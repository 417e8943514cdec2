#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "fbi/core/random.h"
#include "fbi/eval/language_model.h"

namespace fbi::infer {

struct SamplerOptions {
  double temperature = 1.0;  ///< >= 0; 0: greedy, the filters below do not matter
  std::int64_t top_k = 0;    ///< keep the k most likely tokens; 0: off
  double top_p = 1.0;        ///< (0, 1]: keep the fewest tokens whose probabilities reach top_p
  /// [0, 1]: keep tokens at least min_p times as likely as the most likely one.
  double min_p = 0.0;
  double repetition_penalty = 1.0;  ///< [0.01, 100] (Keskar et al. 2019, §4.1); 1: off
  /// [-2, 2], taken from the logit of a token that was drawn before: frequency for each time,
  /// presence once.
  double frequency_penalty = 0.0, presence_penalty = 0.0;
  std::uint64_t seed = 0;
};

/// Throws UsageError naming the option, its range and the value found.
void validate(const SamplerOptions& options);

/// Picks next tokens. Order as in transformers: penalties, temperature, top-k, top-p, min-p. Equal
/// logits rank by id, lowest first; one draw of a Philox stream per token, so the sequence is a
/// function of seed and logits alone.
class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options);

  /// Those of `ids` logits on which next() depends, with so much history; all where there is no
  /// value. next() takes -infinity in place of the others.
  std::optional<eval::Drawable> drawable(std::int64_t ids, std::size_t history,
                                         std::size_t given) const;
  /// `history`: ids so far, of which the first `given` are the prompt (for the penalties; ids
  /// outside the logits are ignored). -infinity excludes a token; DataError when a logit is NaN or
  /// +infinity or all are -infinity.
  std::int32_t next(std::span<const float> logits, std::span<const std::int32_t> history = {},
                    std::size_t given = 0);

 private:
  void penalize_repetition(std::span<const std::int32_t> history);
  void penalize_drawn(std::span<const std::int32_t> drawn);
  double weight(double logit, double maximum) const;
  void weigh_all(double maximum);
  void weigh_most_likely(double maximum);
  std::int32_t draw();

  SamplerOptions options_;
  RandomStream random_;
  // Scratch of one call, kept to spare allocations per token.
  std::vector<double> logits_;
  std::vector<std::int32_t> repeated_, heap_;
  std::vector<std::int32_t> ids_;  // tokens that may be drawn,
  std::vector<double> weights_;    // and how likely they are
};

}  // namespace fbi::infer
