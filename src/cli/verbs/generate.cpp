#include "fbi/infer/generate.h"

#include <iostream>

#include "cli/model_arguments.h"
#include "cli/verbs.h"
#include "fbi/core/human.h"
#include "fbi/core/log.h"

namespace fbi::cli {
namespace {

infer::GenerateOptions generate_options(const Arguments& arguments, const nn::LlamaForCausalLM& model) {
  infer::GenerateOptions options;
  options.max_new_tokens = arguments.integer("max-new-tokens");
  options.sampling.temperature = arguments.number("temperature");
  options.sampling.top_k = arguments.integer("top-k");
  options.sampling.top_p = arguments.number("top-p");
  options.sampling.min_p = arguments.number("min-p");
  options.sampling.repetition_penalty = arguments.number("repetition-penalty");
  options.sampling.seed = static_cast<std::uint64_t>(arguments.integer("seed"));
  options.add_bos = !arguments.has("no-bos");
  options.stop = arguments.list("stop");
  for (const auto id : model.config().eos_token_id) options.eos_ids.push_back(static_cast<std::int32_t>(id));
  return options;
}

int run(const Arguments& arguments) {
  const auto loaded = load_model(arguments);
  const auto tokenizer = load_model_tokenizer(arguments, loaded.folder);
  const auto options = generate_options(arguments, *loaded.model);
  const bool json = arguments.has("json");
  const std::string prompt = arguments.text("prompt");
  bool begun = json;
  const auto show = [&](std::string_view text) {  // the prompt with the first piece: options that are refused print nothing
    if (!begun) std::cout << prompt;
    begun = true;
    if (!json) std::cout << text << std::flush;
  };
  const auto result = infer::generate(*loaded.model, *tokenizer, prompt, options, show);
  if (json) {
    std::cout << infer::to_json(result) << "\n";
    return 0;
  }
  show("\n");
  log::info(result.new_tokens, " tokens, ", format_rate(static_cast<double>(result.new_tokens) / result.generate_seconds, "tokens"),
            ", ended by ", infer::to_string(result.finish_reason));
  return 0;
}

}  // namespace

Verb generate_verb() {
  auto options = model_options();
  options.insert(options.end(),
                 {{"prompt", "TEXT", "text to continue", "", false, false},
                  {"max-new-tokens", "N", "stop after so many tokens", "128", false, false},
                  {"temperature", "T", "0: always the most likely token", "1.0", false, false},
                  {"top-k", "K", "draw from the K most likely tokens; 0: all", "0", false, false},
                  {"top-p", "P", "draw from the most likely tokens that hold probability P", "1.0", false, false},
                  {"min-p", "P", "drop tokens less than P times as likely as the best", "0.0", false, false},
                  {"repetition-penalty", "X", "above 1: tokens seen before become less likely", "1.0", false, false},
                  {"seed", "K", "the same seed gives the same text", "0", false, false},
                  {"stop", "TEXT", "end before this text", "", false, true},
                  {"no-bos", "", "do not put BOS in front of the prompt", "", false, false},
                  {"json", "", "print one JSON object instead of streaming", "", false, false}});
  return {"generate",
          "continue a prompt",
          "Loads a run, checkpoint, export or Hugging Face folder and streams a continuation of the prompt, with a key-value cache.",
          "",
          options,
          {"fbi-llm generate --model quickstart/student --prompt \"One day, \" --max-new-tokens 100 --temperature 0.7 --seed 1"},
          run};
}

}  // namespace fbi::cli
