#include "fbi/data/prepare.h"

#include <iostream>

#include "cli/terminal.h"
#include "cli/verbs.h"
#include "fbi/core/error.h"
#include "fbi/core/human.h"
#include "fbi/core/parallel.h"
#include "fbi/core/signals.h"

namespace fbi::cli {
namespace {

data::InputFormat input_format(const std::string& name) {
  if (name == "auto") return data::InputFormat::kByName;
  if (name == "jsonl") return data::InputFormat::kJsonLines;
  if (name == "text") return data::InputFormat::kText;
  throw UsageError(concat("--format: expected auto, jsonl or text, found '", name, "'"));
}

void print_part(const char* name, const data::PreparedPart& part) {
  if (part.documents == 0) return;
  std::cout << "  " << name << ": " << part.documents << " documents, " << part.ids << " ids -> "
            << part.samples << " samples, " << part.dropped_ids << " ids at the end dropped\n";
}

int run_prepare(const Arguments& arguments) {
  if (arguments.has("tokenizer"))
    arguments.refuse({"vocab-size"}, "is for ids without a tokenizer: --tokenizer has its own");
  data::PrepareOptions options;
  for (const auto& input : arguments.list("input")) options.inputs.emplace_back(input);
  options.format = input_format(arguments.text("format"));
  options.field = arguments.text("field");
  options.separator = data::unescape_separator(arguments.text("separator"));
  options.tokenizer = arguments.text("tokenizer");
  options.vocab_size = arguments.integer("vocab-size");
  options.output = arguments.text("out");
  options.seq_len = arguments.integer("seq-len");
  options.valid_fraction = arguments.number("valid-fraction");
  options.seed = arguments.seed();
  options.skip_broken = arguments.integer("skip-broken");
  ThreadPool pool(arguments.threads());
  ProgressBar bar;
  const auto result = data::prepare(
      options, pool, [&](std::string_view what, std::uint64_t done, std::uint64_t total) {
        if (stop_requested())
          throw StoppedError(concat("stopped; ", options.output.string(), " is as it was before"));
        bar.show(static_cast<std::int64_t>(done), static_cast<std::int64_t>(total),
                 concat(what, ", ", format_bytes(done), " of ", format_bytes(total)));
      });
  bar.clear();
  std::cout << options.output.string()
            << (result.already_done ? " already holds this preparation:\n" : " prepared:\n");
  print_part("train", result.train);
  print_part("valid", result.valid);
  if (result.broken_documents > 0)
    std::cout << "  " << result.broken_documents << " broken documents left out\n";
  if (options.valid_fraction > 0 && result.valid.samples == 0)
    std::cout << "  no sample was held out, so there is no valid-*.tokens: give a larger "
                 "--valid-fraction\n";
  std::cout << "Use it with data.format \"shards\" and data.paths [\"" << options.output.string()
            << "\"].\n";
  return 0;
}

}  // namespace

Verb prepare_verb() {
  Verb verb{
      "prepare",
      "turn text or JSON lines into token shards for training",
      "Cuts documents into samples of seq-len + 1 ids: each document is BOS, its ids, EOS; "
      "documents are concatenated and cut "
      "without overlap. Writes train-*.tokens and valid-*.tokens (memory-mapped while training), "
      "dataset.json with all counts, "
      "and a copy of the tokenizer. Running it again is free when nothing has changed.",
      "input",
      {{"input", "FILE", "text or .jsonl file, also .gz or .zst", "", true, true},
       {"tokenizer", "FILE",
        "tokenizer.model, tokenizer.json or a folder that holds one; not needed for lines of "
        "token_ids"},
       {"out", "DIR", "folder to make", "", true},
       {"seq-len", "N", "tokens that a training sample predicts", "2048"},
       {"format", "KIND", "auto (by file name), jsonl or text", "auto"},
       {"field", "KEY", "JSON lines: key of the text; without it lines hold token_ids"},
       {"separator", "TEXT", "text: what stands between documents, \\n and \\t allowed", "\\n\\n"},
       {"valid-fraction", "X", "share of documents held out in valid-*.tokens", "0"},
       {"skip-broken", "N", "leave out up to N broken lines; one more ends the work", "0"},
       {"vocab-size", "N", "token_ids without a tokenizer: ids must be below this", "0"},
       {"seed", "N", "chooses the held-out documents", "0"},
       {"threads", "N", "0: all processors", "0"}},
      {"fbi-llm prepare --input stories.txt --tokenizer tokenizer.model --seq-len 256 "
       "--valid-fraction 0.02 --out data/stories",
       "fbi-llm prepare --input c4.jsonl.zst --field text --tokenizer llama2/tokenizer.model --out "
       "data/c4"},
      run_prepare};
  verb.heeds_stop = true;
  return verb;
}

}  // namespace fbi::cli
