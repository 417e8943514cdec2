#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fbi/config/run_config.h"
#include "fbi/distributed/communicator.h"
#include "fbi/eval/choice.h"
#include "fbi/eval/perplexity.h"
#include "fbi/train/step_metrics.h"

/// Evaluation by all ranks of a run. Each takes its part of windows or items; all return the whole,
/// the bits of one rank alone. Collective; an error of one rank is an error on all.
namespace fbi::train {

/// nullopt when a stop was asked of some rank meanwhile.
std::optional<eval::PerplexityResult> perplexity(distributed::Communicator& communicator,
                                                 eval::LanguageModel& model,
                                                 const eval::WindowSource& windows,
                                                 eval::PerplexityOptions options);
std::optional<eval::ChoiceResult> evaluate_choices(distributed::Communicator& communicator,
                                                   eval::LanguageModel& model,
                                                   const text::Tokenizer& tokenizer,
                                                   const eval::ChoiceTask& task,
                                                   eval::ChoiceOptions options);

/// What `evaluation.*` of a configuration asks for, opened before training starts; all that rank
/// `rank` of `size` will need is read and checked there. Throws UsageError, DataError.
class RunEvaluation {
 public:
  RunEvaluation(const config::RunConfig& config, int rank, int size);
  bool due(std::int64_t step) const;
  /// Collective. DataError when it fails. What is not finite is measured as NaN. `on_progress` is
  /// called after each forward. Empty when a stop was asked for meanwhile.
  std::vector<Measurement> run(eval::LanguageModel& model, distributed::Communicator& communicator,
                               const std::function<void()>& on_progress = {}) const;

 private:
  struct HeldOut {
    std::string name;
    eval::WindowSource windows;
  };
  void check_name(const std::string& name) const;
  eval::PerplexityOptions perplexity_options() const;
  eval::ChoiceOptions choice_options() const;

  config::EvaluationConfig options_;
  std::int64_t last_step_;
  std::vector<HeldOut> held_out_;
  std::vector<eval::ChoiceTask> tasks_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
};

}  // namespace fbi::train
