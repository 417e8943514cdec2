#include "cli/runtime/completion_api.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <utility>

#include "fbi/core/error.h"

namespace fbi::cli::runtime {

using Json = nlohmann::json;

/// The fields of a body. Each that is read counts as known; null is the same as absent.
class Fields {
 public:
  Fields(const Json& object, std::string prefix) : object_(object), prefix_(std::move(prefix)) {}

  /// nullptr: absent.
  const Json* find(const std::string& name) {
    known_.insert(name);
    const auto found = object_.find(name);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  double number(const std::string& name, double otherwise) {
    const Json* value = find(name);
    if (value && !value->is_number()) wrong_type(name, "a number", *value);
    return value ? value->get<double>() : otherwise;
  }
  std::int64_t integer(const std::string& name, std::int64_t otherwise, std::int64_t least,
                       std::int64_t most) {
    const Json* value = find(name);
    if (!value) return otherwise;
    if (!value->is_number_integer()) wrong_type(name, "an integer", *value);
    const bool large = value->is_number_unsigned() &&
                       value->get<std::uint64_t>() >
                           static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (large || value->get<std::int64_t>() < least || value->get<std::int64_t>() > most) {
      refuse(name, concat("expected ", least, " to ", most, ", found ", value->dump()));
    }
    return value->get<std::int64_t>();
  }
  bool flag(const std::string& name, bool otherwise) {
    const Json* value = find(name);
    if (value && !value->is_boolean()) wrong_type(name, "true or false", *value);
    return value ? value->get<bool>() : otherwise;
  }

  /// Fields that change nothing here.
  void ignore(std::initializer_list<const char*> names) {
    known_.insert(names.begin(), names.end());
  }
  /// A field that would change the result, unless it has the value that does nothing.
  void only(const std::string& name, const Json& neutral) {
    const Json* value = find(name);
    if (!value || *value == neutral) return;
    refuse(name, concat("is not supported; leave it out", neutral.is_null() ? "" : " or send ",
                        neutral.is_null() ? "" : neutral.dump()));
  }
  void refuse_others() const {
    for (const auto& [name, value] : object_.items()) {
      if (!known_.contains(name) && !value.is_null()) {
        throw ApiError(400, concat("unknown field ", prefix_, name), prefix_ + name);
      }
    }
  }

  [[noreturn]] void refuse(const std::string& name, const std::string& what) const {
    throw ApiError(400, concat(prefix_, name, ": ", what), prefix_ + name);
  }
  [[noreturn]] void wrong_type(const std::string& name, const char* expected,
                               const Json& found) const {
    const char* type = found.is_number_float() ? "a number with a fraction" : found.type_name();
    refuse(name, concat("expected ", expected, ", found ", type));
  }

 private:
  const Json& object_;
  std::string prefix_;
  std::set<std::string> known_;
};

namespace {

constexpr std::size_t kMaxStops = 16;
constexpr std::int64_t kMaxLogprobs = 5;
constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();

std::vector<std::string> stop_strings(Fields& fields) {
  const Json* value = fields.find("stop");
  if (!value) return {};
  const Json list = value->is_array() ? *value : Json::array({*value});
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
  if (!value->is_number_integer()) fields.wrong_type("seed", "an integer", *value);
  return value->get<std::uint64_t>();
}

infer::SamplerOptions sampling(Fields& fields) {
  infer::SamplerOptions options;
  options.temperature = fields.number("temperature", 1);
  options.top_k = fields.integer("top_k", 0, 0, kMost);
  options.top_p = fields.number("top_p", 1);
  options.min_p = fields.number("min_p", 0);
  options.repetition_penalty = fields.number("repetition_penalty", 1);
  options.seed = seed(fields);
  try {
    infer::validate(options);
  } catch (const UsageError& error) {  // begins with the name of the option
    const std::string message = error.what();
    throw ApiError(400, message, message.substr(0, message.find(' ')));
  }
  return options;
}

bool include_usage(Fields& fields, bool stream) {
  const Json* value = fields.find("stream_options");
  if (!value) return false;
  if (!value->is_object()) fields.wrong_type("stream_options", "an object", *value);
  if (!stream) fields.refuse("stream_options", "has a meaning with \"stream\": true only");
  Fields options(*value, "stream_options.");
  const bool wanted = options.flag("include_usage", false);
  options.ignore({"include_obfuscation"});
  options.refuse_others();
  return wanted;
}

std::int64_t seconds_since_1970() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

/// Texts of clients may stand in messages; a broken character there must not matter.
std::string dumped(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string error_json(int status, std::string_view message, std::string_view field) {
  const char* type = status == 503  ? "overloaded_error"
                     : status < 500 ? "invalid_request_error"
                                    : "server_error";
  nlohmann::ordered_json error = {
      {"message", message}, {"type", type}, {"param", nullptr}, {"code", nullptr}};
  if (!field.empty()) error["param"] = field;
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

CompletionApi::Prompt CompletionApi::prompt_of_text(const std::string& text) const {
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
  const Json list = value->is_array() && !is_ids(*value) ? *value : Json::array({*value});
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
      if (!id.is_number_integer()) fields.wrong_type("prompt", "token ids", id);
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
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) throw ApiError(400, "the body is not valid JSON");
  if (!json.is_object()) {
    throw ApiError(400, concat("expected a JSON object, found ", json.type_name()));
  }
  Fields fields(json, "");
  CompletionRequest request;
  infer::GenerateOptions options;
  options.max_new_tokens = fields.integer("max_tokens", 16, 0, kMost);
  options.sampling = sampling(fields);
  options.stop = stop_strings(fields);
  for (const auto id : model_.config().eos_token_id) {
    options.eos_ids.push_back(static_cast<std::int32_t>(id));
  }
  const std::int64_t n = fields.integer("n", 1, 1, max_texts_);
  request.echo = fields.flag("echo", false);
  request.stream = fields.flag("stream", false);
  const std::int64_t best = fields.integer("logprobs", -1, 0, kMaxLogprobs);
  request.logprobs = best >= 0;
  if (request.logprobs && request.stream) fields.refuse("logprobs", "not together with \"stream\"");
  request.include_usage = include_usage(fields, request.stream);
  fields.ignore({"model", "user", "metadata", "store", "service_tier"});
  fields.only("best_of", n);
  fields.only("frequency_penalty", 0);
  fields.only("presence_penalty", 0);
  fields.only("logit_bias", Json::object());
  fields.only("suffix", "");
  fields.find("prompt");
  fields.refuse_others();

  try {
    for (const Prompt& prompt : prompts(fields, n)) {
      request.prompt_tokens += std::ssize(prompt.ids);
      for (std::int64_t k = 0; k < n; ++k) {
        request.texts.push_back({prompt.ids, options});
        if (request.logprobs) request.texts.back().score_best = best;
        request.texts.back().score_prompt = request.echo;
        request.texts.back().options.sampling.seed += static_cast<std::uint64_t>(k);
        request.before.push_back(request.echo ? prompt.text : "");
      }
    }
  } catch (const UsageError& error) {
    throw ApiError(400, error.what(), "prompt");
  }
  return request;
}

/// As it reads within a text. Bytes, control pieces and parts of characters as the vocabulary
/// spells them, so that different tokens have different names.
std::string CompletionApi::token_text(std::int32_t id) const {
  const auto decoder = tokenizer_.start_decoding();
  for (const std::int32_t before : tokenizer_.encode("a")) decoder->feed(before);
  std::string text = decoder->feed(id);
  const bool whole = !text.empty() && text.find("\uFFFD") == std::string::npos;
  return whole && tokenizer_.type(id) != text::PieceType::kByte ? text : tokenizer_.piece(id);
}

nlohmann::ordered_json CompletionApi::logprobs_json(const Likelihoods& likelihoods) const {
  using Array = nlohmann::ordered_json::array_t;
  Array tokens, own, best, offsets;
  std::int64_t offset = 0;
  const auto add = [&](std::int32_t id) {
    const std::string text = token_text(id);
    offsets.emplace_back(offset);
    tokens.emplace_back(text);
    offset += std::ranges::count_if(text, [](char c) { return (c & 0xC0) != 0x80; });  // characters
  };
  if (likelihoods.first) {
    add(*likelihoods.first);
    own.emplace_back(nullptr);
    best.emplace_back(nullptr);
  }
  for (const infer::TokenScore& score : likelihoods.scores) {
    add(score.id);
    own.emplace_back(score.log_probability);
    auto others = nlohmann::ordered_json::object();
    for (const auto& [id, log_probability] : score.best) others[token_text(id)] = log_probability;
    best.emplace_back(others);
  }
  return {{"tokens", tokens},
          {"token_logprobs", own},
          {"top_logprobs", best},
          {"text_offset", offsets}};
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
    if (choice.logprobs) json["logprobs"] = logprobs_json(*choice.logprobs);
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
                     {"total_tokens", usage->prompt_tokens + usage->new_tokens}};
  }
  return dumped(json);
}

std::string CompletionApi::models_json() const {
  const nlohmann::ordered_json model = {
      {"id", model_name_}, {"object", "model"}, {"created", started_}, {"owned_by", "fbi-llm"}};
  return dumped({{"object", "list"}, {"data", nlohmann::ordered_json::array({model})}});
}

}  // namespace fbi::cli::runtime
