#include "serve/completion_api.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <utility>

#include "fbi/core/error.h"
#include "fbi/core/system.h"
#include "fbi/text/byte_level.h"
#include "serve/request_fields.h"

namespace fbi::serve {

namespace {

constexpr int kMaxDepth = 8;  // values are walked recursively; no field needs as many levels
constexpr std::size_t kMaxStops = 16;
constexpr std::int64_t kMaxLogprobs = 5;

Json parsed(std::string_view body) {
  const auto check_depth = [](int depth, Json::parse_event_t event, Json&) {
    const bool opens =
        event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start;
    if (opens && depth >= kMaxDepth) {
      throw ApiError(400, concat("the body is nested deeper than ", kMaxDepth, " levels"));
    }
    return true;
  };
  try {
    Json json = Json::parse(body, check_depth);
    if (!json.is_object())
      throw ApiError(400, concat("expected a JSON object, found ", json.type_name()));
    return json;
  } catch (const Json::parse_error& error) {
    throw ApiError(400, concat("the body is not valid JSON, at byte ", error.byte));
  }
}

/// Those of an array; of anything else itself.
std::span<const Json> values_of(const Json& value) {
  if (value.is_array()) return value.get_ref<const Json::array_t&>();
  return {&value, 1};
}

std::vector<std::string> stop_strings(Fields& fields) {
  const Json* value = fields.find("stop");
  if (!value) return {};
  const auto list = values_of(*value);
  if (list.size() > kMaxStops) {
    fields.refuse("stop", concat("at most ", kMaxStops, " texts, found ", list.size()));
  }
  std::vector<std::string> texts;
  for (const Json& text : list) {
    if (!text.is_string()) fields.wrong_type("stop", "a text or an array of texts", text);
    if (text == "") fields.refuse("stop", "a text is empty; leave it out to not stop");
    texts.push_back(text);
  }
  return texts;
}

/// Without a seed every request draws differently.
std::uint64_t seed(Fields& fields) {
  const Json* value = fields.find("seed");
  if (!value) {
    std::random_device device;
    return static_cast<std::uint64_t>(device()) << 32 | device();
  }
  const auto number = whole(*value);
  if (!number) fields.wrong_type("seed", "an integer", *value);
  return value->is_number_float() ? static_cast<std::uint64_t>(*number)
                                  : value->get<std::uint64_t>();
}

infer::SamplerOptions sampling(Fields& fields) {
  infer::SamplerOptions options;
  options.temperature = fields.number("temperature", 1);
  options.top_k = std::max<std::int64_t>(fields.integer("top_k", 0, -1, kMost), 0);
  options.top_p = fields.number("top_p", 1);
  if (options.top_p == 0) {  // the interface has it; the fewest tokens are one
    options.top_k = 1;
    options.top_p = 1;
  }
  options.min_p = fields.number("min_p", 0);
  options.repetition_penalty = fields.number("repetition_penalty", 1);
  options.frequency_penalty = fields.number("frequency_penalty", 0);
  options.presence_penalty = fields.number("presence_penalty", 0);
  options.seed = seed(fields);
  try {
    infer::validate(options);
  } catch (const UsageError& error) {  // begins with the name of the option
    const std::string message = error.what();
    throw ApiError(400, message, message.substr(0, message.find(' ')));
  }
  return options;
}

/// How many alternatives are wanted; -1: not even the tokens' own.
std::int64_t logprobs(Fields& fields) {
  const Json* value = fields.find("logprobs");
  if (value && value->is_boolean() && !value->get<bool>()) return -1;
  return fields.integer("logprobs", -1, 0, kMaxLogprobs);
}

/// Fields that clients send with the value that does nothing.
void refuse_unsupported(Fields& fields, std::int64_t n) {
  fields.ignore({"model", "user", "metadata", "store", "service_tier"});
  fields.only("best_of", n);
  fields.only("logit_bias", Json::object());
  fields.only("suffix", "");
  // Of vLLM's interface and llama.cpp's.
  fields.only("min_tokens", 0);
  fields.only("stop_token_ids", Json::array());
  fields.only("use_beam_search", false);
  fields.only("length_penalty", 1);
  fields.only("typical_p", 1);
  fields.only("include_stop_str_in_output", false);
  fields.only("skip_special_tokens", true);
  fields.only("spaces_between_special_tokens", true);
  fields.only("add_special_tokens", true);
  fields.only("cache_prompt", true);
  fields.only("response_format", {{"type", "text"}});
  fields.find("prompt");
  fields.refuse_others();
}

bool include_usage(Fields& fields, bool stream) {
  const Json* value = fields.find("stream_options");
  if (!value) return false;
  if (!value->is_object()) fields.wrong_type("stream_options", "an object", *value);
  if (!stream) fields.refuse("stream_options", "has a meaning with \"stream\": true only");
  Fields options(*value, "stream_options.");
  const bool wanted = options.flag("include_usage", false);
  options.ignore({"include_obfuscation"});
  options.only("continuous_usage_stats", false);
  options.refuse_others();
  return wanted;
}

std::int64_t seconds_since_1970() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::int64_t characters(std::string_view text) {
  return std::ranges::count_if(text, [](char c) { return (c & 0xC0) != 0x80; });
}

/// As the interface names tokens that are no text: "bytes:\xc3".
std::string spelled(std::string_view bytes) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string name = "bytes:";
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= ' ' && byte <= '~' && byte != '\\') {
      name += c;
    } else {
      name += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return name;
}

/// Texts of clients may stand in messages; a broken character there must not matter.
std::string dumped(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

struct GivesBackMemory {
  ~GivesBackMemory() { give_back_freed_memory(); }
};

}  // namespace

std::string error_json(int status, std::string_view message, std::string_view field,
                       std::string_view code) {
  const char* type = status == 503  ? "overloaded_error"
                     : status < 500 ? "invalid_request_error"
                                    : "server_error";
  nlohmann::ordered_json error = {
      {"message", message}, {"type", type}, {"param", nullptr}, {"code", nullptr}};
  if (!field.empty()) error["param"] = field;
  if (!code.empty()) error["code"] = code;
  return dumped({{"error", error}});
}

std::string finish_reason(infer::FinishReason reason) {
  const bool stopped = reason == infer::FinishReason::kEos || reason == infer::FinishReason::kStop;
  return stopped ? "stop" : "length";
}

CompletionApi::CompletionApi(const infer::PackedModel& model, const text::Tokenizer& tokenizer,
                             std::string model_name, std::int64_t max_texts)
    : model_(model),
      tokenizer_(tokenizer),
      model_name_(std::move(model_name)),
      max_texts_(max_texts),
      started_(seconds_since_1970()) {}

/// A text takes some hundred times its size while it is tokenized, and every connection has a
/// thread: long ones take turns.
CompletionApi::Prompt CompletionApi::prompt_of_text(const std::string& text) const {
  constexpr std::size_t kLong = 1 << 16;
  std::unique_lock turn(large_prompts_, std::defer_lock);
  std::optional<GivesBackMemory> afterwards;
  if (text.size() > kLong) {
    turn.lock();
    afterwards.emplace();
  }
  return {infer::prompt_ids(model_, tokenizer_, text, /*add_bos=*/true), text};
}

CompletionApi::Prompt CompletionApi::prompt_of_ids(std::vector<std::int32_t> ids) const {
  infer::check_prompt(model_, ids);
  const auto known = [this](std::int32_t id) { return id < tokenizer_.vocab_size(); };
  if (!std::ranges::all_of(ids, known)) {
    throw UsageError(concat("the prompt has ids beyond the tokenizer's vocabulary of ",
                            tokenizer_.vocab_size()));
  }
  std::string text = tokenizer_.decode(ids);
  return {std::move(ids), std::move(text)};
}

std::vector<CompletionApi::Prompt> CompletionApi::prompts(Fields& fields, std::int64_t n) const {
  constexpr const char* kKinds = "a text, an array of token ids, or an array of these";
  const Json* value = fields.find("prompt");
  if (!value) fields.refuse("prompt", concat("is missing; expected ", kKinds));
  const auto is_ids = [](const Json& json) {
    return json.is_array() && !json.empty() && json.front().is_number();
  };
  const auto list = is_ids(*value) ? std::span(value, 1) : values_of(*value);
  if (list.empty()) fields.refuse("prompt", "the array is empty");
  if (const auto count = std::ssize(list); count > max_texts_ / n) {
    fields.refuse("prompt", concat(count, " prompts with ", n, " texts each; this server takes ",
                                   max_texts_, " texts at once"));
  }
  std::vector<Prompt> all;
  for (const Json& prompt : list) {
    if (prompt.is_string()) {
      all.push_back(prompt_of_text(prompt));
      continue;
    }
    if (!is_ids(prompt)) fields.wrong_type("prompt", kKinds, prompt);
    std::vector<std::int32_t> ids;
    for (const Json& id : prompt) {
      if (!whole(id)) fields.wrong_type("prompt", "token ids", id);
      const double wide = id.get<double>();  // an id of 2^32 must not become 0
      if (wide < 0 || wide >= static_cast<double>(model_.vocab_size())) {
        fields.refuse("prompt",
                      concat("token id ", id.dump(), " is outside the model's vocabulary of ",
                             model_.vocab_size()));
      }
      ids.push_back(id);
    }
    all.push_back(prompt_of_ids(std::move(ids)));
  }
  return all;
}

CompletionRequest CompletionApi::parse(std::string_view body) const {
  const Json json = parsed(body);
  Fields fields(json, "");
  CompletionRequest request;
  infer::GenerateOptions options;
  options.max_new_tokens = fields.integer("max_tokens", 16, 0, kMost);
  options.sampling = sampling(fields);
  options.stop = stop_strings(fields);
  options.ignore_eos = fields.flag("ignore_eos", false);
  for (const auto id : model_.config().eos_token_id) {
    options.eos_ids.push_back(static_cast<std::int32_t>(id));
  }
  const bool seeded = fields.find("seed") != nullptr;
  const std::int64_t n = fields.integer("n", 1, 1, max_texts_);
  request.texts_of_a_prompt = n;
  request.echo = fields.flag("echo", false);
  request.stream = fields.flag("stream", false);
  const std::int64_t best = logprobs(fields);
  request.logprobs = best >= 0;
  if (request.logprobs && request.stream) fields.refuse("logprobs", "not together with \"stream\"");
  request.include_usage = include_usage(fields, request.stream);
  refuse_unsupported(fields, n);

  try {
    for (const Prompt& prompt : prompts(fields, n)) {
      request.prompt_tokens += std::ssize(prompt.ids);
      for (std::int64_t k = 0; k < n; ++k) {
        // Without a seed no two texts of a request are alike, not even those of the same prompt.
        const auto number = seeded ? static_cast<std::uint64_t>(k) : request.texts.size();
        request.texts.push_back({prompt.ids, options});
        if (request.logprobs) request.texts.back().score_best = best;
        request.texts.back().score_prompt = request.echo;
        request.texts.back().options.sampling.seed += number;
        request.before.push_back(request.echo ? prompt.text : "");
      }
    }
  } catch (const infer::ContextError& error) {
    throw ApiError(400, error.what(), "prompt", "context_length_exceeded");
  } catch (const UsageError& error) {
    throw ApiError(400, error.what(), "prompt");
  }
  return request;
}

/// As it reads within a text; else its bytes, or how the vocabulary spells a control piece. A byte
/// that the vocabulary has as no other piece, as LLaMA's has the line end, reads as it is. So
/// different tokens have different names.
std::string CompletionApi::token_text(std::int32_t id) const {
  const auto decoder = tokenizer_.start_decoding();
  for (const std::int32_t before : tokenizer_.encode("a")) decoder->feed(before);
  std::string text = decoder->feed(id);
  const bool whole_characters =
      !text.empty() && text.find("\uFFFD") == std::string::npos && decoder->finish().empty();
  const auto is_only_piece = [&] { return tokenizer_.encode("a" + text).back() == id; };
  if (whole_characters && (tokenizer_.type(id) != text::PieceType::kByte || is_only_piece()))
    return text;
  const auto bytes = text::piece_bytes(tokenizer_, id);
  return bytes ? spelled(*bytes) : tokenizer_.piece(id);
}

/// Where named tokens, those of the prompt with "echo" and the new ones, begin in the text of a
/// choice, in characters.
std::vector<std::int64_t> CompletionApi::offsets(const Likelihoods& likelihoods,
                                                 std::span<const std::string> names,
                                                 std::string_view text) const {
  std::vector<std::int64_t> offsets;
  const auto decoder = tokenizer_.start_decoding();
  std::int64_t offset = 0;
  const auto add = [&](std::int32_t id, bool named, std::int64_t end) {
    const std::string added = decoder->feed(id);
    if (named) {  // in front of it may be bytes that turn out to be no character
      const std::string& name = names[offsets.size()];
      const std::int64_t before = added.ends_with(name) ? characters(added) - characters(name) : 0;
      offsets.push_back(std::min(offset + before, end));
    }
    offset += characters(added);
  };
  const std::int64_t prompt_end = characters(likelihoods.before), end = characters(text);
  for (const std::int32_t id : likelihoods.prompt) add(id, likelihoods.echo, prompt_end);
  offset = prompt_end;
  const std::size_t scored = likelihoods.echo ? likelihoods.prompt.size() - 1 : 0;
  for (std::size_t n = scored; n < likelihoods.scores.size(); ++n) {
    add(likelihoods.scores[n].id, true, end);  // a stop text may have cut it off
  }
  return offsets;
}

nlohmann::ordered_json CompletionApi::logprobs_json(const Likelihoods& likelihoods,
                                                    std::string_view text) const {
  std::vector<std::string> tokens;
  nlohmann::ordered_json::array_t own, best;
  if (likelihoods.echo) {  // nothing comes before the first
    tokens.push_back(token_text(likelihoods.prompt.front()));
    own.emplace_back(nullptr);
    best.emplace_back(nullptr);
  }
  for (const infer::TokenScore& score : likelihoods.scores) {
    tokens.push_back(token_text(score.id));
    own.emplace_back(score.log_probability);
    auto alternatives = nlohmann::ordered_json::object();
    for (const auto& [id, log_probability] : score.best) {
      alternatives[token_text(id)] = log_probability;
    }
    alternatives[tokens.back()] = score.log_probability;
    best.emplace_back(std::move(alternatives));
  }
  return {{"tokens", tokens},
          {"token_logprobs", own},
          {"top_logprobs", best},
          {"text_offset", offsets(likelihoods, tokens, text)}};
}

std::string CompletionApi::completion_json(std::uint64_t number, std::int64_t created,
                                           const std::vector<Choice>& choices,
                                           const Usage* usage) const {
  auto list = nlohmann::ordered_json::array();
  for (const Choice& choice : choices) {
    nlohmann::ordered_json json = {{"text", choice.text},
                                   {"index", choice.index},
                                   {"logprobs", nullptr},
                                   {"finish_reason", nullptr}};
    if (choice.logprobs) json["logprobs"] = logprobs_json(*choice.logprobs, choice.text);
    if (!choice.finish_reason.empty()) json["finish_reason"] = choice.finish_reason;
    list.push_back(json);
  }
  nlohmann::ordered_json json = {{"id", concat("cmpl-", started_, "-", number)},
                                 {"object", "text_completion"},
                                 {"created", created},
                                 {"model", model_name_},
                                 {"choices", list}};
  if (usage) {
    json["usage"] = {{"prompt_tokens", usage->prompt_tokens},
                     {"completion_tokens", usage->new_tokens},
                     {"total_tokens", usage->prompt_tokens + usage->new_tokens},
                     {"prompt_tokens_details", {{"cached_tokens", usage->cached_tokens}}}};
  }
  return dumped(json);
}

std::string CompletionApi::model_json() const {
  return dumped(model());
}
std::string CompletionApi::models_json() const {
  return dumped({{"object", "list"}, {"data", nlohmann::ordered_json::array({model()})}});
}
nlohmann::ordered_json CompletionApi::model() const {
  return {{"id", model_name_},
          {"object", "model"},
          {"created", started_},
          {"owned_by", "fbi-llm"},
          {"max_model_len", model_.max_position()}};
}

}  // namespace fbi::serve
