#include "cli/choice.h"

#include <algorithm>
#include <filesystem>
#include <iostream>

#include "cli/output_check.h"
#include "cli/packed_arguments.h"
#include "cli/stoppable.h"
#include "cli/terminal.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"

namespace fbi::cli {
namespace {

/// "FILE" of "FORM=FILE" comes with the word itself: one of them is a file, if any is.
std::vector<std::filesystem::path> task_files(const Arguments& arguments) {
  std::vector<std::filesystem::path> files;
  for (const auto& word : arguments.list("tasks")) {
    files.emplace_back(word);
    files.emplace_back(word.substr(word.find('=') + 1));
  }
  return files;
}

void print_scores(const eval::ChoiceResult& result) {
  const auto scores = eval::scores_of(result);
  std::cout << result.task << ": acc " << scores.acc << " ± " << scores.acc_stderr;
  if (result.has_acc_norm)
    std::cout << ", acc_norm " << scores.acc_norm << " ± " << scores.acc_norm_stderr;
  std::cout << " (" << result.items.size() << " items, " << result.dtype
            << (result.add_bos ? ", with BOS" : "") << ")\n";
}

void print_results(const Arguments& arguments, const std::vector<eval::ChoiceResult>& results) {
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

}  // namespace

std::vector<Option> choice_options() {
  return {{"tasks", "[FORM=]FILE", "JSON lines of a task", "", true, true},
          {"batch", "N", "choices per forward", "8"},
          {"add-bos", "", "put BOS before every context"},
          {"samples", "FILE", "write the log-likelihoods of every item, a JSON object per line"},
          {"json", "", "print one JSON object in the harness's layout"}};
}

std::vector<eval::ChoiceTask> open_tasks(const Arguments& arguments, bool prints) {
  std::vector<eval::ChoiceTask> tasks;
  for (const auto& word : arguments.list("tasks")) {
    tasks.push_back(eval::open_choice_task(word));
    if (std::ranges::count(tasks, tasks.back().name, &eval::ChoiceTask::name) > 1)
      throw UsageError(concat("--tasks: two are called ", tasks.back().name,
                              "; results are told apart by name, rename one of the files"));
  }
  if (prints && arguments.has("samples"))
    check_output(arguments, "samples", {"tokenizer"}, task_files(arguments));
  return tasks;
}

int print_choices(const Answer& answer, const std::vector<eval::ChoiceTask>& tasks,
                  const Arguments& arguments, bool prints) {
  eval::ChoiceOptions options;
  options.batch = arguments.integer("batch");
  options.add_bos = arguments.has("add-bos");
  std::vector<eval::ChoiceResult> results;
  for (const auto& task : tasks) {
    ProgressBar bar;
    options.on_progress = [&](const eval::ChoiceProgress& progress) {
      if (prints) bar.show(progress.choices_done, progress.choices_total, task.name);
    };
    auto result = answer(task, options);
    if (!result) return static_cast<int>(ExitCode::kStopped);
    results.push_back(std::move(*result));
  }
  if (prints) print_results(arguments, results);
  return 0;
}

int print_packed_choices(const Arguments& arguments) {
  const auto tasks = open_tasks(arguments);
  infer::PackedModel model(arguments.text("model"), packed_options_of(arguments));
  const auto tokenizer = load_packed_tokenizer(arguments, model);
  const auto answer = [&](const eval::ChoiceTask& task, const eval::ChoiceOptions& options) {
    return unless_stopped(options, [&](const eval::ChoiceOptions& stoppable) {
      return eval::evaluate_choices(model, *tokenizer, task, stoppable);
    });
  };
  return print_choices(answer, tasks, arguments);
}

}  // namespace fbi::cli
