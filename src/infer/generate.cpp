#include "fbi/infer/generate.h"

#include <chrono>
#include <utility>

#include <nlohmann/json.hpp>

#include "fbi/core/error.h"
#include "infer/continuation.h"

namespace fbi::infer {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

void check_prompt(const eval::LanguageModel& model, std::span<const std::int32_t> ids,
                  std::string_view remedy) {
  const auto count = std::ssize(ids);
  if (count == 0) throw UsageError("an empty prompt needs the BOS token to start from");
  if (count >= model.max_position()) {
    throw ContextError(concat("the prompt has ", count,
                              " tokens, which leaves no room in the model's context of ",
                              model.max_position(), "; shorten the prompt"));
  }
  for (const std::int32_t id : ids) {
    if (id >= 0 && id < model.vocab_size()) continue;
    throw UsageError(concat("token id ", id, " of the prompt is outside the model's vocabulary of ",
                            model.vocab_size(), remedy));
  }
}

std::vector<std::int32_t> prompt_ids(const eval::LanguageModel& model,
                                     const text::Tokenizer& tokenizer, std::string_view prompt,
                                     bool add_bos) {
  std::vector<std::int32_t> ids = tokenizer.encode(prompt);
  if (add_bos) ids.insert(ids.begin(), tokenizer.bos_id());
  check_prompt(
      model, ids,
      concat("; the tokenizer (", tokenizer.path().string(), ") belongs to another model"));
  return ids;
}

GenerateResult generate(eval::LanguageModel& model, const text::Tokenizer& tokenizer,
                        std::string_view prompt, const GenerateOptions& options,
                        const std::function<void(std::string_view)>& on_text) {
  Continuation continuation(tokenizer, model, options,
                            prompt_ids(model, tokenizer, prompt, options.add_bos), on_text);
  std::vector<float> logits(static_cast<std::size_t>(model.vocab_size()));
  const auto start = std::chrono::steady_clock::now();
  const auto session = model.start_decoding();
  const auto feed = [&](std::span<const std::int32_t> ids) {
    const auto drawable = continuation.drawable();
    drawable ? session->feed_to_draw(ids, *drawable, logits) : session->feed(ids, logits);
  };
  feed(continuation.ids());
  continuation.result().prompt_seconds = seconds_since(start);

  const auto prompt_end = std::chrono::steady_clock::now();
  while (!continuation.ended()) {
    continuation.draw(logits);
    if (!continuation.ended()) feed({&continuation.ids().back(), 1});
  }
  continuation.result().generate_seconds = seconds_since(prompt_end);
  return std::move(continuation.result());
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
