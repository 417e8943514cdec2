#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "cli/verb.h"
#include "fbi/eval/choice.h"

namespace fbi::cli {

/// --tasks, --batch, --add-bos, --samples, --json.
std::vector<Option> choice_options();
/// The files of --tasks, before a model is loaded; checks that of --samples if this process
/// `prints`.
std::vector<eval::ChoiceTask> open_tasks(const Arguments& arguments, bool prints = true);

/// nullopt when a stop was asked for meanwhile.
using Answer = std::function<std::optional<eval::ChoiceResult>(const eval::ChoiceTask&,
                                                               const eval::ChoiceOptions&)>;
/// Answers all tasks; with progress bars, results and --samples if this process `prints`.
int print_choices(const Answer& answer, const std::vector<eval::ChoiceTask>& tasks,
                  const Arguments& arguments, bool prints = true);
/// By the packed model that --model names.
int print_packed_choices(const Arguments& arguments);

}  // namespace fbi::cli
