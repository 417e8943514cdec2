#include "fbi/train/evaluation.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <span>

#include "fbi/core/error.h"
#include "fbi/core/log.h"
#include "fbi/core/signals.h"
#include "fbi/data/sample_source.h"
#include "fbi/data/training_data.h"
#include "fbi/distributed/agreement.h"

namespace fbi::train {
namespace {

/// Thrown out of a progress report: the way to end an evaluation between two forwards.
struct StopAsked {};

/// Runs `work` in all ranks; false when any of them was asked to stop meanwhile. DataError for what
/// is no fbi::Error, such as a lack of memory.
bool evaluate_together(distributed::Communicator& communicator, const std::function<void()>& work) {
  bool stopped = false;
  distributed::run_together(communicator, [&] {
    try {
      work();
    } catch (const StopAsked&) {
      stopped = true;
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      const std::string_view reason = error.what();
      throw DataError(std::string(reason.substr(0, reason.find('\n'))));  // no frames of LibTorch
    }
  });
  at::Tensor asked = at::zeros({1}, at::TensorOptions(at::kInt).device(communicator.device()));
  asked.fill_(stopped ? 1 : 0);
  communicator.all_reduce(asked, distributed::Reduce::kMax)->wait();
  return asked.item<int>() == 0;
}

/// `whole` holds this rank's values at their places and 0 elsewhere; returns those of all ranks.
/// Sums with 0 are exact.
std::vector<double> joined(distributed::Communicator& communicator, std::span<const double> whole) {
  at::Tensor values = at::zeros({static_cast<std::int64_t>(whole.size())}, at::kDouble);
  std::ranges::copy(whole, values.mutable_data_ptr<double>());
  values = values.to(communicator.device());
  communicator.all_reduce(values, distributed::Reduce::kSum)->wait();
  values = values.to(at::kCPU);
  const double* first = values.const_data_ptr<double>();
  return {first, first + whole.size()};
}

/// Errors of `check`, of the setting that gave it this work.
void naming(const std::string& what, const std::function<void()>& check) {
  const auto place = concat("evaluation of ", what, ": ");
  try {
    check();
  } catch (const UsageError& error) {
    throw UsageError(place + error.what());
  } catch (const DataError& error) {
    throw DataError(place + error.what());
  }
}

std::unique_ptr<text::Tokenizer> load_tokenizer(const config::DataConfig& data) {
  const auto tokenizer = data::find_tokenizer(data);
  if (!tokenizer) {
    throw DataError(
        "evaluation.tasks need a tokenizer, and none lies with the data of data.paths: put the "
        "tokenizer.model or tokenizer.json that the data were prepared with into that folder");
  }
  return text::load_tokenizer(*tokenizer);
}

template <class Options>
void divide(Options& options, const distributed::Communicator& communicator) {
  options.part = communicator.rank();
  options.parts = communicator.size();
  options.on_progress = [report = std::move(options.on_progress)](const auto& progress) {
    if (stop_requested()) throw StopAsked();
    if (report) report(progress);
  };
}

}  // namespace

std::optional<eval::PerplexityResult> perplexity(distributed::Communicator& communicator,
                                                 eval::LanguageModel& model,
                                                 const eval::WindowSource& windows,
                                                 eval::PerplexityOptions options) {
  divide(options, communicator);
  eval::PerplexityResult part;
  if (!evaluate_together(communicator, [&] { part = eval::perplexity(model, windows, options); }))
    return std::nullopt;
  std::vector<double> whole(static_cast<std::size_t>(part.windows_total));
  std::ranges::copy(part.window_nll, whole.begin() + part.first_window);
  part.window_nll = joined(communicator, whole);
  part.first_window = 0;
  eval::summarize(part, windows.length);
  return part;
}

std::optional<eval::ChoiceResult> evaluate_choices(distributed::Communicator& communicator,
                                                   eval::LanguageModel& model,
                                                   const text::Tokenizer& tokenizer,
                                                   const eval::ChoiceTask& task,
                                                   eval::ChoiceOptions options) {
  divide(options, communicator);
  eval::ChoiceResult part;
  if (!evaluate_together(communicator,
                         [&] { part = eval::evaluate_choices(model, tokenizer, task, options); }))
    return std::nullopt;
  std::vector<double> whole;
  for (std::size_t i = 0; i < task.items.size(); ++i) {
    const std::size_t choices = task.items[i].choices.size(),
                      first = static_cast<std::size_t>(part.first_item);
    if (i >= first && i - first < part.items.size()) {
      std::ranges::copy(part.items[i - first].log_likelihoods, std::back_inserter(whole));
    } else {
      whole.resize(whole.size() + choices);
    }
  }
  whole = joined(communicator, whole);
  part.first_item = 0;
  part.items.clear();
  auto next = whole.begin();
  for (const eval::ChoiceItem& item : task.items) {
    const auto end = next + std::ssize(item.choices);
    part.items.push_back(eval::judge(item, {next, end}));
    next = end;
  }
  return part;
}

namespace {

void warn_of_nothing(const config::EvaluationConfig& options, int rank) {
  const bool has_data = !options.tokens.empty() || !options.tasks.empty();
  if (rank != 0 || has_data == (options.every_steps > 0)) return;
  if (has_data)
    log::warn("evaluation.every_steps is 0: evaluation.tokens and evaluation.tasks are not used");
  else
    log::warn("evaluation.every_steps is ", options.every_steps,
              ", but evaluation.tokens and evaluation.tasks name nothing to evaluate");
}

}  // namespace

RunEvaluation::RunEvaluation(const config::RunConfig& config, int rank, int size)
    : options_(config.evaluation), last_step_(config.train.steps) {
  warn_of_nothing(options_, rank);
  if (options_.every_steps == 0) return;
  const config::ModelConfig& model = config.model;
  const auto own_part = [&](auto options) {
    options.part = rank;
    options.parts = size;
    return options;
  };
  const auto tokenizer = data::find_tokenizer(config.data);
  for (const std::string& file : options_.tokens) {
    const std::string name = std::filesystem::path(file).stem().string();
    check_name(name);
    held_out_.push_back(
        {name, eval::sample_windows(data::open_token_windows(file, model.vocab_size))});
    naming(file, [&] {
      if (tokenizer) data::require_tokenizer(file, *tokenizer);
      eval::check_windows(held_out_.back().windows, model.vocab_size, model.max_position_embeddings,
                          own_part(perplexity_options()));
    });
  }
  for (const std::string& word : options_.tasks) {
    eval::ChoiceTask task = eval::open_choice_task(word);
    check_name(task.name);
    tasks_.push_back(std::move(task));
  }
  if (tasks_.empty()) return;
  tokenizer_ = load_tokenizer(config.data);
  for (const eval::ChoiceTask& task : tasks_)
    naming(task.name, [&] {
      eval::check_choices(*tokenizer_, task, model.vocab_size, model.max_position_embeddings,
                          own_part(choice_options()));
    });
}

eval::PerplexityOptions RunEvaluation::perplexity_options() const {
  eval::PerplexityOptions options;
  options.batch = options_.batch;
  options.max_windows = options_.max_windows;
  options.allow_non_finite = true;  // the run itself decides when it has diverged
  return options;
}

eval::ChoiceOptions RunEvaluation::choice_options() const {
  eval::ChoiceOptions options;
  options.batch = options_.batch;
  options.allow_non_finite = true;
  return options;
}

/// Results are told apart by name.
void RunEvaluation::check_name(const std::string& name) const {
  const auto same = [&](const auto& other) { return other.name == name; };
  if (std::ranges::any_of(held_out_, same) || std::ranges::any_of(tasks_, same)) {
    throw UsageError(concat("evaluation.tokens and evaluation.tasks: two are called ", name,
                            "; rename one of the files"));
  }
}

bool RunEvaluation::due(std::int64_t step) const {
  return options_.every_steps > 0 && (step % options_.every_steps == 0 || step == last_step_);
}

std::vector<Measurement> RunEvaluation::run(eval::LanguageModel& model,
                                            distributed::Communicator& communicator,
                                            const std::function<void()>& on_progress) const {
  const auto reporting = [&](auto options) {
    if (on_progress) options.on_progress = [&](const auto&) { on_progress(); };
    return options;
  };
  std::vector<Measurement> out;
  for (const HeldOut& text : held_out_) {
    const auto result =
        perplexity(communicator, model, text.windows, reporting(perplexity_options()));
    if (!result) return {};
    out.push_back({text.name, "perplexity", result->perplexity});
  }
  for (const eval::ChoiceTask& task : tasks_) {
    const auto result =
        evaluate_choices(communicator, model, *tokenizer_, task, reporting(choice_options()));
    if (!result) return {};
    const auto scores = eval::scores_of(*result);
    out.push_back({task.name, "acc", scores.acc});
    if (result->has_acc_norm) out.push_back({task.name, "acc_norm", scores.acc_norm});
  }
  return out;
}

}  // namespace fbi::train
