#include "fbi/infer/generate.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <span>
#include <utility>

#include <nlohmann/json.hpp>

#include "fbi/core/error.h"
#include "infer/stop_strings.h"

namespace fbi::infer {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<std::int32_t> prompt_ids(const eval::LanguageModel& model,
                                     const text::Tokenizer& tokenizer, std::string_view prompt,
                                     bool add_bos) {
  std::vector<std::int32_t> ids = tokenizer.encode(prompt);
  if (add_bos) ids.insert(ids.begin(), tokenizer.bos_id());
  if (ids.empty()) throw UsageError("an empty prompt needs the BOS token to start from");
  const auto count = static_cast<std::int64_t>(ids.size());
  if (count >= model.max_position()) {
    throw UsageError(concat("the prompt has ", count,
                            " tokens, which leaves no room in the model's context of ",
                            model.max_position(), "; shorten the prompt"));
  }
  const std::int32_t largest = *std::ranges::max_element(ids);
  if (largest >= model.vocab_size()) {
    throw UsageError(concat("token id ", largest,
                            " of the prompt is outside the model's vocabulary of ",
                            model.vocab_size(), "; the tokenizer (", tokenizer.path().string(),
                            ") belongs to another model"));
  }
  return ids;
}

/// The loop after the prompt: draws from `logits`, feeds, until something ends the text.
class Continuation {
 public:
  Continuation(eval::LanguageModel& model, const text::Tokenizer& tokenizer,
               const GenerateOptions& options, std::vector<std::int32_t> prompt,
               const std::function<void(std::string_view)>& on_text)
      : model_(model),
        options_(options),
        sampler_(options.sampling),
        stop_(options.stop,
              [this, &on_text](std::string_view piece) {
                result_.text += piece;
                if (on_text) on_text(piece);
              }),
        decoder_(tokenizer.start_decoding()),
        eos_ids_(options.eos_ids),
        ids_(std::move(prompt)),
        logits_(static_cast<std::size_t>(model.vocab_size())),
        drawn_(std::span(logits_).first(
            static_cast<std::size_t>(std::min(model.vocab_size(), tokenizer.vocab_size())))) {
    eos_ids_.push_back(tokenizer.eos_id());
    result_.prompt_tokens = static_cast<std::int64_t>(ids_.size());
    for (const std::int32_t id : ids_) decoder_->feed(id);  // the prompt's own text is not repeated
  }

  GenerateResult run() {
    const auto start = std::chrono::steady_clock::now();
    const auto session = model_.start_decoding();
    session->feed(ids_, logits_);
    result_.prompt_seconds = seconds_since(start);

    const auto prompt_end = std::chrono::steady_clock::now();
    while (!finished()) {
      const std::int32_t id = sampler_.next(drawn_, ids_);
      if (std::ranges::count(eos_ids_, id) > 0) {
        result_.finish_reason = FinishReason::kEos;
        break;
      }
      ids_.push_back(id);
      result_.ids.push_back(id);
      if (stop_.push(decoder_->feed(id))) {
        result_.finish_reason = FinishReason::kStop;
        break;
      }
      if (!finished()) session->feed({&id, 1}, logits_);
    }
    flush();
    result_.new_tokens = static_cast<std::int64_t>(result_.ids.size());
    result_.generate_seconds = seconds_since(prompt_end);
    return std::move(result_);
  }

 private:
  bool finished() {
    if (static_cast<std::int64_t>(result_.ids.size()) >= options_.max_new_tokens) {
      result_.finish_reason = FinishReason::kLength;
      return true;
    }
    if (static_cast<std::int64_t>(ids_.size()) >= model_.max_position()) {
      result_.finish_reason = FinishReason::kContext;
      return true;
    }
    return false;
  }

  void flush() {
    if (result_.finish_reason == FinishReason::kStop) return;
    if (stop_.push(decoder_->finish())) {
      result_.finish_reason = FinishReason::kStop;
    } else {
      stop_.finish();
    }
  }

  eval::LanguageModel& model_;
  const GenerateOptions& options_;
  Sampler sampler_;
  StopStrings stop_;
  std::unique_ptr<text::StreamDecoder> decoder_;
  std::vector<std::int32_t> eos_ids_;
  std::vector<std::int32_t> ids_;  // prompt and new tokens
  std::vector<float> logits_;
  std::span<const float> drawn_;  // the part of the logits that the tokenizer knows
  GenerateResult result_;
};

}  // namespace

GenerateResult generate(eval::LanguageModel& model, const text::Tokenizer& tokenizer,
                        std::string_view prompt, const GenerateOptions& options,
                        const std::function<void(std::string_view)>& on_text) {
  if (options.max_new_tokens < 0) {
    throw UsageError(concat("max_new_tokens must be >= 0, found ", options.max_new_tokens));
  }
  Continuation continuation(model, tokenizer, options,
                            prompt_ids(model, tokenizer, prompt, options.add_bos), on_text);
  return continuation.run();
}

std::string to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::kLength:
      return "length";
    case FinishReason::kEos:
      return "eos";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kContext:
      return "context";
  }
  return "unknown";
}

std::string to_json(const GenerateResult& result) {
  const nlohmann::ordered_json json = {{"text", result.text},
                                       {"ids", result.ids},
                                       {"finish_reason", to_string(result.finish_reason)},
                                       {"prompt_tokens", result.prompt_tokens},
                                       {"new_tokens", result.new_tokens},
                                       {"prompt_seconds", result.prompt_seconds},
                                       {"generate_seconds", result.generate_seconds}};
  return json.dump();
}

}  // namespace fbi::infer
