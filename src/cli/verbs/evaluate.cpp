#include <algorithm>
#include <functional>
#include <iostream>
#include <limits>

#include "cli/choice.h"
#include "cli/model_arguments.h"
#include "cli/output_check.h"
#include "cli/packed_arguments.h"
#include "cli/perplexity.h"
#include "cli/ranks.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "fbi/core/error.h"
#include "fbi/distributed/agreement.h"
#include "fbi/eval/windows.h"
#include "fbi/formats/safetensors.h"
#include "fbi/train/evaluation.h"

namespace fbi::cli {
namespace {

eval::WindowSource windows_for(const Arguments& arguments, const LoadedModel& loaded) {
  return open_windows(arguments, loaded.folder.config.vocab_size, loaded.folder.tokenizer,
                      [&] { return load_model_tokenizer(arguments, loaded.folder); });
}

/// For verbs that divide their work over ranks: only rank 0 prints.
struct RanksOfVerb {
  explicit RanksOfVerb(const Arguments& arguments) : rendezvous(discover_rank(arguments)) {
    quieten_other_ranks(rendezvous);
    communicator = join_ranks(rendezvous, arguments);
  }
  bool prints() const { return rendezvous.rank == 0; }
  int run(const std::function<int()>& work) const {
    int code = 0;
    distributed::run_or_give_up(*communicator, [&] { code = work(); });
    return code;
  }
  distributed::Rendezvous rendezvous;
  std::unique_ptr<distributed::Communicator> communicator;
};

/// Whether --model is a packed export; UsageError for what does not go with the kind that it is.
bool is_packed(const Arguments& arguments) {
  if (!infer::is_packed_folder(arguments.text("model"))) {
    refuse_packed_options(arguments);
    return false;
  }
  refuse_unpacked_options(arguments);
  if (discover_rank(arguments).world_size > 1)
    throw UsageError("a packed model is evaluated by one process: --threads uses more processors");
  return true;
}

int run_perplexity(const Arguments& arguments) {
  if (is_packed(arguments)) return print_packed_perplexity(arguments);
  const RanksOfVerb ranks(arguments);
  return ranks.run([&] {
    const auto loaded = load_model(arguments, *ranks.communicator, ranks.rendezvous.local_rank);
    const auto windows = windows_for(arguments, loaded);
    const auto measure = [&](const eval::PerplexityOptions& options) {
      return train::perplexity(*ranks.communicator, *loaded.model, windows, options);
    };
    return print_perplexity(measure, arguments, ranks.prints());
  });
}

int run_logits(const Arguments& arguments) {
  const std::int64_t max_windows =
      arguments.integer("max-windows", 0, std::numeric_limits<std::int64_t>::max());
  check_output(arguments, "out", {"tokens", "text", "tokenizer"});
  const auto loaded = load_model(arguments);
  const auto windows = windows_for(arguments, loaded);
  const std::int64_t vocab = loaded.model->vocab_size(), length = windows.length;
  // A sample has one id more than positions were trained.
  if (length - 1 > loaded.model->max_position())
    throw UsageError(concat("windows of ", length, " tokens, but the model has ",
                            loaded.model->max_position(), " positions; give a smaller --seq-len"));
  const std::int64_t count = max_windows > 0 ? std::min(windows.count, max_windows) : windows.count;
  const formats::TensorView layout{"logits", formats::DType::kF32, {count, length, vocab}, {}};
  formats::SafetensorsWriter out(arguments.text("out"), {&layout, 1});
  std::vector<float> logits(static_cast<std::size_t>(length * vocab));
  std::vector<std::int32_t> ids(static_cast<std::size_t>(length));
  ProgressBar bar;
  for (std::int64_t window = 0; window < count; ++window) {
    windows.read(window, ids);
    loaded.model->logits(ids, 1, length, logits);
    out.write(std::as_bytes(std::span(logits)));
    bar.show(window + 1, count, "windows");
  }
  bar.clear();
  const auto written = out.finish();
  std::cout << arguments.text("out") << ": logits [" << count << ", " << length << ", " << vocab
            << "], " << written.bytes << " bytes, " << loaded.model->dtype_description() << "\n";
  return 0;
}

int run_choice(const Arguments& arguments) {
  if (is_packed(arguments)) return print_packed_choices(arguments);
  const RanksOfVerb ranks(arguments);
  return ranks.run([&] {
    const auto tasks = open_tasks(arguments, ranks.prints());
    const auto loaded = load_model(arguments, *ranks.communicator, ranks.rendezvous.local_rank);
    const auto tokenizer = load_model_tokenizer(arguments, loaded.folder);
    const auto answer = [&](const eval::ChoiceTask& task, const eval::ChoiceOptions& options) {
      return train::evaluate_choices(*ranks.communicator, *loaded.model, *tokenizer, task, options);
    };
    return print_choices(answer, tasks, arguments, ranks.prints());
  });
}

}  // namespace

Verb eval_perplexity_verb() {
  Verb verb{
      "eval perplexity",
      "measure perplexity by the published method",
      "Cuts the text into independent windows without its tail, takes the mean negative "
      "log-likelihood of each window's predictions and of "
      "these the mean over windows, and prints its exponential. --tokens or --text is needed. "
      "--dtype fp16 on a binarized model folds as the "
      "published evaluation does. A packed export runs from its sign bits; --activations, "
      "--head and --cache are for it. Started by fbi-llm "
      "launch or srun, ranks share the windows.",
      "",
      joined(joined(joined(model_options(), packed_options()), perplexity_options()),
             rank_options()),
      {"fbi-llm eval perplexity --model runs/a --text wikitext2-test.txt --seq-len 2048 "
       "--dtype fp16",
       "fbi-llm eval perplexity --model quickstart/student --tokens "
       "quickstart/data/valid-00000.tokens --json"},
      run_perplexity};
  verb.heeds_stop = true;
  return verb;
}

Verb eval_logits_verb() {
  return {"eval logits",
          "write a model's logits to a safetensors file",
          "For comparisons with other programs. The file holds one fp32 tensor `logits` [windows, "
          "tokens, vocabulary]. --tokens or --text is "
          "needed.",
          "",
          joined(joined(model_options(), window_options()),
                 {{"max-windows", "N", "0: all", "0"},
                  {"out", "FILE", "safetensors file to write", "", true}}),
          {"fbi-llm eval logits --model export/hf --tokens windows.jsonl --out logits.safetensors"},
          run_logits};
}

Verb eval_choice_verb() {
  Verb verb{
      "eval choice",
      "measure zero-shot multiple choice as lm-evaluation-harness does",
      "Prints the share of questions that are answered rightly. acc takes the choice with the "
      "largest log-likelihood after its context, "
      "acc_norm the one with the largest per character. A task is a file of "
      "JSON lines {\"context\": …, \"choices\": […], \"gold\": i}, or FORM=FILE with the fields of "
      "a data set and the harness's "
      "prompt; forms: " +
          join(eval::choice_forms()) +
          " (docs/evaluation.md has their fields, and a script that makes the files). With all "
          "seven, the average of the published table is printed, too. The published evaluation "
          "adds no BOS. A packed export answers from its sign bits; --activations, --head and "
          "--cache "
          "are for it. Started by fbi-llm launch or srun, ranks share "
          "the items.",
      "",
      joined(joined(joined(model_options(), packed_options()), choice_options()), rank_options()),
      {"fbi-llm eval choice --model runs/a --tasks piqa=eval/piqa.jsonl --tasks "
       "arc_easy=eval/arc_easy.jsonl --dtype fp16",
       "fbi-llm eval choice --model export/hf --tasks my_task.jsonl --json"},
      run_choice};
  verb.heeds_stop = true;
  return verb;
}

}  // namespace fbi::cli
