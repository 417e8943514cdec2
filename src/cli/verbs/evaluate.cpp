#include <algorithm>
#include <functional>
#include <iostream>
#include <limits>

#include "cli/model_arguments.h"
#include "cli/output_check.h"
#include "cli/packed_arguments.h"
#include "cli/perplexity.h"
#include "cli/ranks.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/distributed/agreement.h"
#include "fbi/eval/choice.h"
#include "fbi/eval/windows.h"
#include "fbi/formats/safetensors.h"
#include "fbi/train/evaluation.h"

namespace fbi::cli {
namespace {

eval::WindowSource windows_for(const Arguments& arguments, const LoadedModel& loaded) {
  return open_windows(arguments, loaded.folder.config.vocab_size,
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

int run_perplexity(const Arguments& arguments) {
  if (infer::is_packed_folder(arguments.text("model"))) {
    if (discover_rank(arguments).world_size > 1)
      throw UsageError(
          "a packed model is evaluated by one process: --threads uses more processors");
    refuse_unpacked_options(arguments);
    return print_packed_perplexity(arguments);
  }
  refuse_packed_options(arguments);
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

/// Before the model is loaded: checks the file that the verb writes at its end.
void check_output(const Arguments& arguments, const std::string& option,
                  const std::vector<std::string>& input_options,
                  std::vector<std::filesystem::path> inputs = {}) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(arguments.text("model"), ignored))
    inputs.push_back(entry.path());
  for (const auto& name : input_options)
    for (const auto& value : arguments.list(name)) inputs.emplace_back(value);
  check_output_file(option, arguments.text(option), inputs);
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

void print_scores(const eval::ChoiceResult& result) {
  const auto scores = eval::scores_of(result);
  std::cout << result.task << ": acc " << scores.acc << " ± " << scores.acc_stderr;
  if (result.has_acc_norm)
    std::cout << ", acc_norm " << scores.acc_norm << " ± " << scores.acc_norm_stderr;
  std::cout << " (" << result.items.size() << " items, " << result.dtype
            << (result.add_bos ? ", with BOS" : "") << ")\n";
}

void print_choices(const Arguments& arguments, const std::vector<eval::ChoiceResult>& results) {
  if (arguments.has("json")) {
    std::cout << eval::to_json(results) << "\n";
  } else {
    for (const auto& result : results) print_scores(result);
    if (const auto average = eval::published_average(results))
      std::cout << "average as published (acc of boolq and winogrande, acc_norm of the others): "
                << *average << "\n";
  }
  std::cout << std::flush;  // what was computed is there, whatever happens to the file
  if (!arguments.has("samples")) return;
  std::string samples;
  for (const auto& result : results) samples += eval::samples_jsonl(result);
  write_file(arguments.text("samples"), samples);
}

/// "FILE" of "FORM=FILE" comes with the word itself: one of them is a file, if any is.
std::vector<std::filesystem::path> task_files(const Arguments& arguments) {
  std::vector<std::filesystem::path> files;
  for (const auto& word : arguments.list("tasks")) {
    files.emplace_back(word);
    files.emplace_back(word.substr(word.find('=') + 1));
  }
  return files;
}

int answer_choices(const Arguments& arguments, const RanksOfVerb& ranks) {
  std::vector<eval::ChoiceTask> tasks;  // read first: a bad file is found before a model is loaded
  for (const auto& word : arguments.list("tasks")) {
    tasks.push_back(train::open_choice_task(word));
    if (std::ranges::count(tasks, tasks.back().name, &eval::ChoiceTask::name) > 1)
      throw UsageError(concat("--tasks: two are called ", tasks.back().name,
                              "; results are told apart by name, rename one of the files"));
  }
  if (ranks.prints() && arguments.has("samples"))
    check_output(arguments, "samples", {"tokenizer"}, task_files(arguments));
  const auto loaded = load_model(arguments, *ranks.communicator, ranks.rendezvous.local_rank);
  const auto tokenizer = load_model_tokenizer(arguments, loaded.folder);
  eval::ChoiceOptions options;
  options.batch = arguments.integer("batch");
  options.add_bos = arguments.has("add-bos");
  std::vector<eval::ChoiceResult> results;
  for (const auto& task : tasks) {
    ProgressBar bar;
    options.on_progress = [&](const eval::ChoiceProgress& progress) {
      if (ranks.prints()) bar.show(progress.choices_done, progress.choices_total, task.name);
    };
    auto result =
        train::evaluate_choices(*ranks.communicator, *loaded.model, *tokenizer, task, options);
    if (!result) return static_cast<int>(ExitCode::kStopped);
    results.push_back(std::move(*result));
  }
  if (ranks.prints()) print_choices(arguments, results);
  return 0;
}

int run_choice(const Arguments& arguments) {
  const RanksOfVerb ranks(arguments);
  return ranks.run([&] { return answer_choices(arguments, ranks); });
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
          "adds no BOS. "
          "Started by fbi-llm launch or srun, ranks share "
          "the items.",
      "",
      joined(
          joined(model_options(), rank_options()),
          {{"tasks", "[FORM=]FILE", "JSON lines of a task", "", true, true},
           {"batch", "N", "choices per forward", "8"},
           {"add-bos", "", "put BOS before every context"},
           {"samples", "FILE", "write the log-likelihoods of every item, a JSON object per line"},
           {"json", "", "print one JSON object in the harness's layout"}}),
      {"fbi-llm eval choice --model runs/a --tasks piqa=eval/piqa.jsonl --tasks "
       "arc_easy=eval/arc_easy.jsonl --dtype fp16",
       "fbi-llm eval choice --model export/hf --tasks my_task.jsonl --json"},
      run_choice};
  verb.heeds_stop = true;
  return verb;
}

}  // namespace fbi::cli
