#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/eval/language_model.h"
#include "fbi/infer/sampler.h"
#include "fbi/text/tokenizer.h"

namespace fbi::infer {

struct GenerateOptions {
  std::int64_t max_new_tokens = 128;  ///< >= 0
  SamplerOptions sampling;
  bool add_bos = true;
  std::vector<std::string> stop;      ///< text ends before the first of these that appears
  std::vector<std::int32_t> eos_ids;  ///< tokens that end the text, besides the tokenizer's EOS
  bool ignore_eos = false;            ///< these are tokens like all others
};

enum class FinishReason {
  kLength,   ///< max_new_tokens reached
  kEos,      ///< the model ended the text
  kStop,     ///< a stop string appeared
  kContext,  ///< the model's max_position reached
};

/// How likely a token was where it stands, by the softmax of the model's logits over the
/// tokenizer's vocabulary: as the model has them, whatever the sampling.
struct TokenScore {
  std::int32_t id = 0;
  double log_probability = 0;
  /// The most likely tokens there, most likely first (of equals the lowest id), and theirs.
  std::vector<std::pair<std::int32_t, double>> best;
};

struct GenerateResult {
  std::string text;               ///< what follows the prompt
  std::vector<std::int32_t> ids;  ///< new tokens, without the one that ended the text
  FinishReason finish_reason = FinishReason::kLength;
  /// Where an EngineRequest asks for it: of the prompt's tokens but the first, then of the new ones
  /// and of the one that ended the text.
  std::vector<TokenScore> scores;
  std::int64_t prompt_tokens = 0;  ///< BOS included
  /// Of these, how many were not fed, because another text of the same Engine began like it.
  std::int64_t cached_tokens = 0;
  std::int64_t new_tokens = 0;  ///< ids.size()
  double prompt_seconds = 0;    ///< feeding the prompt
  double generate_seconds = 0;  ///< everything after it
};

/// A prompt that leaves no room in the model's context.
class ContextError : public UsageError {
 public:
  using UsageError::UsageError;
};

/// Throws UsageError for ids that cannot be continued: none, so many that they leave no room in the
/// model's context (ContextError), one outside of its vocabulary (`remedy` ends that message).
void check_prompt(const eval::LanguageModel& model, std::span<const std::int32_t> ids,
                  std::string_view remedy = {});
/// The checked ids of a text.
std::vector<std::int32_t> prompt_ids(const eval::LanguageModel& model,
                                     const text::Tokenizer& tokenizer, std::string_view prompt,
                                     bool add_bos);

/// Continues `prompt`. `on_text` receives `text` piece by piece as it is certain, each piece valid
/// UTF-8; an exception it throws ends the generation. Ids beyond the tokenizer's vocabulary
/// (padding of the model's) are never drawn. Throws UsageError: options, an empty prompt without
/// BOS, a prompt that leaves no room in the model's context, a tokenizer of another model.
GenerateResult generate(eval::LanguageModel& model, const text::Tokenizer& tokenizer,
                        std::string_view prompt, const GenerateOptions& options,
                        const std::function<void(std::string_view)>& on_text = {});

std::string to_string(FinishReason reason);  ///< "length", "eos", "stop", "context"

/// The fields of GenerateResult under their own names.
std::string to_json(const GenerateResult& result);

}  // namespace fbi::infer
