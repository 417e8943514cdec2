#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace fbi::eval {

/// The logits that decide what is drawn: of the first `ids` the `highest` highest, and those that
/// lie at most `within` below the last of these. Of the others only that they are lower matters.
struct Drawable {
  std::int64_t ids = 0;
  std::int64_t highest = 1;
  double within = 0;
};

/// One sequence being continued token by token, with whatever cache the model keeps.
class DecodingSession {
 public:
  virtual ~DecodingSession() = default;
  /// Feeds ids at the next positions; `logits` ([vocab_size] fp32) receives those of the last one.
  virtual void feed(std::span<const std::int32_t> ids, std::span<float> logits) = 0;
  /// The same, but logits that do not count as drawable may be -infinity instead.
  virtual void feed_to_draw(std::span<const std::int32_t> ids, const Drawable& /*drawable*/,
                            std::span<float> logits) {
    feed(ids, logits);
  }
  virtual std::int64_t position() const = 0;  ///< tokens fed so far
};

/// A text of which the last `scored` ids are judged by those before them.
struct ScoredText {
  std::vector<std::int32_t> ids;  ///< at most max_position() + 1
  std::int64_t scored = 0;        ///< at least one, fewer than ids
};

/// What evaluation and generation need of a model; implemented by the trainer's model (nn) and the
/// 1-bit runtime (infer).
class LanguageModel {
 public:
  virtual ~LanguageModel() = default;
  virtual std::int64_t vocab_size() const = 0;
  virtual std::int64_t max_position() const = 0;  ///< longest supported sequence
  /// E.g. "fp32 (weights rounded to fp16)"; printed with every result.
  virtual std::string dtype_description() const = 0;
  /// tokens [batch, seq] row-major; logits [batch, seq, vocab] fp32.
  virtual void logits(std::span<const std::int32_t> tokens, std::int64_t batch, std::int64_t seq,
                      std::span<float> out) = 0;
  /// out[b, s] = -log p(tokens[b, s+1] | tokens[b, 0..s]), [batch, seq-1], natural logarithm, never
  /// holding all logits. The last token of a row is a target only: seq <= max_position() + 1.
  virtual void token_nll(std::span<const std::int32_t> tokens, std::int64_t batch, std::int64_t seq,
                         std::span<float> out) = 0;
  /// Of each text log p(its last `scored` ids | the ids before them), natural logarithm, summed in
  /// fp64. All texts in one forward, unless the model has a better way.
  virtual std::vector<double> log_likelihoods(std::span<const ScoredText> texts);
  virtual std::unique_ptr<DecodingSession> start_decoding() = 0;
};

}  // namespace fbi::eval
