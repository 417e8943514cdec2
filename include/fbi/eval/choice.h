#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fbi/eval/language_model.h"
#include "fbi/text/tokenizer.h"

/// Zero-shot multiple choice as lm-evaluation-harness (0.4.9 and later) measures it: the choice
/// whose text has the largest log-likelihood after its context.
namespace fbi::eval {

struct ChoiceItem {
  struct Continuation {
    /// The likelihood of `text` after `context`; `text` brings its own space in front.
    std::string context, text;
  };
  std::vector<Continuation> choices;
  std::vector<std::int64_t> characters;  ///< acc_norm divides by the length of the choice itself
  std::int64_t gold = 0;
};

struct ChoiceTask {
  std::string name;
  bool has_acc_norm = true;  ///< whether the harness reports it for this task
  std::vector<ChoiceItem> items;
};

/// The prompt forms: "boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge",
/// "openbookqa".
const std::vector<std::string>& choice_forms();

/// Reads JSON lines. With form "": `{"context": …, "choices": […], "gold": i}` each, a space being
/// put between context and choice, the file's name without its ending being the task's; else the
/// fields that the data set has in the Hugging Face hub (arc_*, openbookqa and boolq also as their
/// authors publish them). Throws UsageError (unknown form), DataError (file, line, field).
ChoiceTask read_choice_task(const std::string& form, const std::filesystem::path& path);
/// A task as the command line and `evaluation.tasks` name it: FILE, or FORM=FILE.
ChoiceTask open_choice_task(const std::string& name);

struct ChoiceProgress {
  std::int64_t choices_done = 0, choices_total = 0;  ///< of this part
};

struct ChoiceOptions {
  std::int64_t batch = 8;   ///< choices per forward
  bool add_bos = false;     ///< BOS before every context; the published evaluation has none
  int part = 0, parts = 1;  ///< this call evaluates items of part `part` of `parts`
  /// A log-likelihood that is not finite is a result, which makes scores NaN, not an error: during
  /// training.
  bool allow_non_finite = false;
  std::function<void(const ChoiceProgress&)> on_progress;  ///< after each forward
};

struct ChoiceItemResult {
  std::vector<double> log_likelihoods;  ///< natural logarithm, sum over the tokens of each choice
  std::int64_t chosen = 0;              ///< largest log-likelihood, the first of equal ones
  std::int64_t chosen_norm = 0;         ///< the same per character
  std::int64_t gold = 0;
};

struct ChoiceResult {
  std::string task;
  bool has_acc_norm = true;
  std::string dtype;  ///< the model's dtype_description()
  bool add_bos = false;
  std::int64_t first_item = 0, items_total = 0;  ///< of this part in the whole
  std::vector<ChoiceItemResult> items;
};

/// The result of an item from the log-likelihoods of its choices.
ChoiceItemResult judge(const ChoiceItem& item, std::vector<double> log_likelihoods);

/// Encodes what `evaluate_choices` would of this part and throws as it would, without a model: a
/// training run does this before it starts.
void check_choices(const text::Tokenizer& tokenizer, const ChoiceTask& task,
                   std::int64_t vocab_size, std::int64_t max_position,
                   const ChoiceOptions& options = {});

/// Contexts too long for the model lose their beginning, as in the harness. Throws UsageError
/// (options), DataError (an item without choices, a choice without tokens or longer than the
/// model's context, a token outside its vocabulary, a log-likelihood that is not finite).
ChoiceResult evaluate_choices(LanguageModel& model, const text::Tokenizer& tokenizer,
                              const ChoiceTask& task, const ChoiceOptions& options = {});

struct ChoiceScores {
  double acc = 0, acc_stderr = 0, acc_norm = 0, acc_norm_stderr = 0;
};
/// NaN when a log-likelihood is not finite.
ChoiceScores scores_of(const ChoiceResult& result);

/// The average of the published table: over all seven forms, acc of those for which the harness has
/// nothing else (boolq, winogrande) and acc_norm of the others. nullopt unless all are there,
/// without BOS as there.
std::optional<double> published_average(std::span<const ChoiceResult> results);

/// The harness's layout: {"results": {task: {"acc,none": …, "acc_stderr,none": …, …}}, "n-samples":
/// …, "config": …}; and "published_average" where there is one.
std::string to_json(std::span<const ChoiceResult> results);
/// One JSON object per item, the harness's "samples": doc_id, target, filtered_resps, acc,
/// acc_norm.
std::string samples_jsonl(const ChoiceResult& result);

}  // namespace fbi::eval
