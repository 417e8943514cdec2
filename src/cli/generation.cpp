#include "cli/generation.h"

#include <iostream>
#include <iterator>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/human.h"
#include "fbi/core/log.h"
#include "fbi/infer/generate.h"
#include "fbi/text/plain_text.h"

namespace fbi::cli {
namespace {

infer::GenerateOptions options_of(const Arguments& arguments, const config::ModelConfig& config) {
  infer::GenerateOptions options;
  options.max_new_tokens = arguments.integer("max-new-tokens");
  options.sampling.temperature = arguments.number("temperature");
  options.sampling.top_k = arguments.integer("top-k");
  options.sampling.top_p = arguments.number("top-p");
  options.sampling.min_p = arguments.number("min-p");
  options.sampling.repetition_penalty = arguments.number("repetition-penalty");
  options.sampling.frequency_penalty = arguments.number("frequency-penalty");
  options.sampling.presence_penalty = arguments.number("presence-penalty");
  options.sampling.seed = arguments.seed();
  options.add_bos = !arguments.has("no-bos");
  options.ignore_eos = arguments.has("ignore-eos");
  options.stop = arguments.list("stop");
  for (const auto id : config.eos_token_id)
    options.eos_ids.push_back(static_cast<std::int32_t>(id));
  return options;
}

std::string prompt_of(const Arguments& arguments) {
  if (!arguments.has("prompt-file")) return arguments.text("prompt");
  if (arguments.has("prompt"))
    throw UsageError("give the prompt with either --prompt TEXT or --prompt-file FILE");
  const std::string file = arguments.text("prompt-file");
  const std::string text =
      file != "-" ? read_file(file) : std::string(std::istreambuf_iterator<char>(std::cin), {});
  std::string_view prompt = text::without_byte_order_mark(text);
  // What editors and echo put at the end; a prompt that ends a line has one more.
  if (prompt.ends_with('\n')) prompt.remove_suffix(1);
  if (prompt.ends_with('\r')) prompt.remove_suffix(1);
  return std::string(prompt);
}

std::string rate(std::int64_t tokens, double seconds) {
  return format_rate(static_cast<double>(tokens) / seconds, "tokens");
}

}  // namespace

std::vector<Option> generation_options() {
  return {
      {"prompt", "TEXT", "text to continue"},
      {"prompt-file", "FILE", "file that holds it, without its last line end; - is standard input"},
      {"max-new-tokens", "N", "stop after so many tokens", "128"},
      {"temperature", "T", "0: always the most likely token", "1.0"},
      {"top-k", "K", "draw from the K most likely tokens; 0: all", "0"},
      {"top-p", "P", "draw from the most likely tokens that hold probability P", "1.0"},
      {"min-p", "P", "drop tokens less than P times as likely as the best", "0.0"},
      {"repetition-penalty", "X", "above 1: tokens seen before become less likely", "1.0"},
      {"frequency-penalty", "X",
       "taken from the logit of a token for each time that it was drawn before, -2 to 2", "0.0"},
      {"presence-penalty", "X", "the same, once", "0.0"},
      {"seed", "K", "the same seed gives the same text", "0"},
      {"stop", "TEXT", "end before this text", "", false, true},
      {"ignore-eos", "", "go on where the model would end the text"},
      {"no-bos", "", "do not put BOS in front of the prompt"},
      {"json", "", "print one JSON object instead of streaming"}};
}

int generate_text(eval::LanguageModel& model, const config::ModelConfig& config,
                  const text::Tokenizer& tokenizer, const Arguments& arguments) {
  const auto options = options_of(arguments, config);
  const bool json = arguments.has("json");
  const std::string prompt = prompt_of(arguments);
  bool begun = json;
  const auto show = [&](std::string_view text) {  // the prompt with the first piece: options that
                                                  // are refused print nothing
    if (!begun) std::cout << prompt;
    begun = true;
    if (!json) std::cout << text << std::flush;
  };
  const auto result = infer::generate(model, tokenizer, prompt, options, show);
  if (json) {
    std::cout << infer::to_json(result) << "\n";
    return 0;
  }
  show("\n");
  log::info("prompt ", result.prompt_tokens, " tokens, ",
            rate(result.prompt_tokens, result.prompt_seconds), "; ", result.new_tokens,
            " new tokens, ", rate(result.new_tokens, result.generate_seconds), ", ended by ",
            infer::to_string(result.finish_reason));
  return 0;
}

}  // namespace fbi::cli
