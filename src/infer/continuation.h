#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "fbi/infer/generate.h"
#include "infer/stop_strings.h"

namespace fbi::infer {

/// What follows a prompt, whoever feeds the model: draws token after token, turns them into text,
/// and says when the text has ended.
class Continuation {
 public:
  /// `prompt`: checked ids. `on_text` as in generate(). UsageError for options that are out of
  /// range.
  Continuation(const text::Tokenizer& tokenizer, const eval::LanguageModel& model,
               const GenerateOptions& options, std::vector<std::int32_t> prompt,
               std::function<void(std::string_view)> on_text);
  Continuation(const Continuation&) = delete;
  Continuation& operator=(const Continuation&) = delete;

  /// From now on results have scores.
  void keep_scores(std::int64_t best) { score_best_ = best; }
  std::optional<std::int64_t> score_best() const { return score_best_; }
  /// The score of ids()[position + 1] from the logits [V] behind ids()[position].
  void score(std::int64_t position, std::span<const float> logits);

  /// The first scores of a text that begins in the same way.
  void take_scores(std::span<const TokenScore> scores) {
    result_.scores.assign(scores.begin(), scores.end());
  }

  bool ended() const { return ended_; }
  /// The logits on which draw() depends; all where there is no value.
  std::optional<eval::Drawable> drawable() const;
  /// Draws from the logits [V] behind the last of ids(). Unless the text has ended then, the token
  /// drawn is the new last one. Errors as of Sampler::next.
  void draw(std::span<const float> logits);
  /// The prompt and what was drawn.
  const std::vector<std::int32_t>& ids() const { return ids_; }
  std::int64_t prompt_tokens() const { return result_.prompt_tokens; }
  GenerateResult& result() { return result_; }
  const GenerateResult& result() const { return result_; }

 private:
  void add_score(std::int32_t id, std::span<const float> logits);
  void end_where_full();
  void end(FinishReason reason);

  const std::int64_t max_new_tokens_, max_position_;
  std::function<void(std::string_view)> on_text_;
  Sampler sampler_;
  StopStrings stop_;
  std::unique_ptr<text::StreamDecoder> decoder_;
  std::vector<std::int32_t> eos_ids_;
  std::vector<std::int32_t> ids_;
  std::size_t drawn_vocab_;  // the part of the logits that the tokenizer knows
  GenerateResult result_;
  std::optional<std::int64_t> score_best_;
  bool ended_ = false;
};

}  // namespace fbi::infer
