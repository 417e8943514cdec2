#include "cli/perplexity.h"

#include <iostream>

#include "cli/packed_arguments.h"
#include "cli/stoppable.h"
#include "cli/terminal.h"
#include "fbi/core/error.h"
#include "fbi/data/sample_source.h"
#include "fbi/text/plain_text.h"
#include "fbi/text/text_file.h"

namespace fbi::cli {

std::vector<Option> window_options() {
  return {{"tokens", "FILE",
           "windows of ids: a prepared *.tokens shard, or JSON lines (an array or {\"token_ids\": "
           "[…]} each)"},
          {"text", "FILE",
           "a text file, also .gz or .zst: one document with one BOS in front, cut into windows"},
          {"seq-len", "N", "tokens of a window of --text", "2048"},
          {"max-tokens", "N", "--text: only the first N tokens; 0: all", "0"}};
}

eval::WindowSource open_windows(const Arguments& arguments, std::int64_t vocab_size,
                                const std::filesystem::path& own,
                                const std::function<std::unique_ptr<text::Tokenizer>()>& load) {
  if (arguments.has("tokens") == arguments.has("text"))
    throw UsageError("give the data with either --tokens FILE or --text FILE");
  if (arguments.has("tokens")) {
    arguments.refuse({"seq-len", "max-tokens"},
                     "is for --text; windows of --tokens have a length of their own, and "
                     "--max-windows takes a part of them");
    auto samples = data::open_token_windows(arguments.text("tokens"), vocab_size);
    data::require_tokenizer(
        arguments.text("tokens"),
        arguments.has("tokenizer") ? std::filesystem::path(arguments.text("tokenizer")) : own);
    return eval::sample_windows(std::move(samples));
  }
  const std::string file = arguments.text("text"), content = text::read_text_file(file);
  text::check_plain_text(content, file);
  if (text::begins_with_json_object(content))
    log::warn(file,
              " holds JSON, which is scored as it stands; `prepare` takes the texts out of its "
              "lines, and --tokens scores them");
  const auto ids = eval::text_tokens(*load(), text::without_byte_order_mark(content));
  return eval::stream_windows(ids, arguments.integer("seq-len"), arguments.integer("max-tokens"));
}

std::vector<Option> perplexity_options() {
  return joined(window_options(), {{"batch", "N", "windows per forward", "4"},
                                   {"max-windows", "N", "0: all", "0"},
                                   {"json", "", "print one JSON object"}});
}

int print_perplexity(const Measure& measure, const Arguments& arguments, bool prints) {
  ProgressBar bar;
  eval::PerplexityOptions options;
  options.batch = arguments.integer("batch");
  options.max_windows = arguments.integer("max-windows");
  options.on_progress = [&](const eval::PerplexityProgress& progress) {
    if (!prints) return;
    bar.show(progress.windows_done, progress.windows_total,
             concat("window ", progress.windows_done, " of ", progress.windows_total, ", mean nll ",
                    progress.mean_nll));
  };
  const auto result = measure(options);
  bar.clear();
  if (!result) return static_cast<int>(ExitCode::kStopped);
  if (!prints) return 0;
  if (arguments.has("json"))
    std::cout << eval::to_json(*result) << "\n";
  else
    std::cout << "perplexity " << result->perplexity << "  (mean nll " << result->mean_nll << ", "
              << result->windows << " windows, " << result->tokens << " tokens, " << result->dtype
              << ")\n";
  return 0;
}

int print_packed_perplexity(const Arguments& arguments) {
  infer::PackedModel model(arguments.text("model"), packed_options_of(arguments));
  const auto windows =
      open_windows(arguments, model.vocab_size(), text::find_tokenizer(arguments.text("model")),
                   [&] { return load_packed_tokenizer(arguments, model); });
  const auto measure = [&](const eval::PerplexityOptions& options) {
    return unless_stopped(options, [&](const eval::PerplexityOptions& stoppable) {
      return eval::perplexity(model, windows, stoppable);
    });
  };
  return print_perplexity(measure, arguments);
}

}  // namespace fbi::cli
