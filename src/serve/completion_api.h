#pragma once

#include <cstdint>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "fbi/infer/engine.h"

/// The bodies of OpenAI's completions interface, without HTTP.
namespace fbi::serve {

/// A request that cannot be answered.
class ApiError : public std::runtime_error {
 public:
  ApiError(int status, const std::string& message, std::string field = {}, std::string code = {})
      : std::runtime_error(message),
        status(status),
        field(std::move(field)),
        code(std::move(code)) {}
  const int status;         ///< of HTTP
  const std::string field;  ///< of the body; empty: none in particular
  const std::string code;   ///< by which programs tell it from others; may be empty
};

/// {"error": {"message", "type", "param", "code"}}
std::string error_json(int status, std::string_view message, std::string_view field = {},
                       std::string_view code = {});

/// What POST /v1/completions asks for: `n` texts for each prompt, one prompt after the other.
struct CompletionRequest {
  std::vector<infer::EngineRequest> texts;
  std::vector<std::string> before;  ///< what stands in front of each text: the prompt, with "echo"
  std::int64_t prompt_tokens = 0;   ///< of all prompts
  std::int64_t texts_of_a_prompt = 1;
  bool echo = false;
  bool logprobs = false;
  bool stream = false;
  bool include_usage = false;  ///< at the end of a stream
};

struct Usage {
  std::int64_t prompt_tokens = 0, new_tokens = 0;
  std::int64_t cached_tokens = 0;  ///< of the prompts, those that other texts had fed
};

/// How likely the tokens of a choice are.
struct Likelihoods {
  std::span<const std::int32_t> prompt;
  bool echo = false;        ///< scores begin with those of the prompt
  std::string_view before;  ///< with "echo": the prompt as the choice's text has it
  std::vector<infer::TokenScore> scores;
};

/// One choice of an answer; of a stream, what was added to it.
struct Choice {
  std::size_t index = 0;
  std::string text;
  std::string finish_reason;  ///< "stop", "length"; empty: it goes on
  std::optional<Likelihoods> logprobs = {};
};

class Fields;

class CompletionApi {
 public:
  /// `max_texts`: what one request may ask for.
  CompletionApi(const infer::PackedModel& model, const text::Tokenizer& tokenizer,
                std::string model_name, std::int64_t max_texts);

  /// Throws ApiError that names the field: not JSON, a field of the wrong type or out of range,
  /// unknown, or one that would change the result and is not supported.
  CompletionRequest parse(std::string_view body) const;

  /// A whole answer or, without usage and with one choice, a piece of a stream. `number` makes the
  /// answer's id; `created` is in seconds since 1970.
  std::string completion_json(std::uint64_t number, std::int64_t created,
                              const std::vector<Choice>& choices, const Usage* usage) const;
  const std::string& model_name() const { return model_name_; }
  std::string model_json() const;
  std::string models_json() const;

 private:
  struct Prompt {
    std::vector<std::int32_t> ids;
    std::string text;
  };
  Prompt prompt_of_text(const std::string& text) const;
  Prompt prompt_of_ids(std::vector<std::int32_t> ids) const;
  std::string token_text(std::int32_t id) const;
  std::vector<std::int64_t> offsets(const Likelihoods& likelihoods,
                                    std::span<const std::string> names,
                                    std::string_view text) const;
  /// Likelihoods as the interface has them; `text` is that of the choice.
  nlohmann::ordered_json logprobs_json(const Likelihoods& likelihoods, std::string_view text) const;
  nlohmann::ordered_json model() const;
  std::vector<Prompt> prompts(Fields& fields, std::int64_t n) const;

  const infer::PackedModel& model_;
  const text::Tokenizer& tokenizer_;
  std::string model_name_;
  std::int64_t max_texts_;
  std::int64_t started_;
  mutable std::mutex large_prompts_;
};

/// "stop" or "length", as the interface has no more.
std::string finish_reason(infer::FinishReason reason);

}  // namespace fbi::serve
