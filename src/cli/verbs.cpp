#include "cli/verbs.h"

#include "cli/runtime/verbs.h"

namespace fbi::cli {
namespace {

/// Of a verb that asks stop_requested(), or that hands signals on.
Verb heeding_stop(Verb verb) {
  verb.heeds_stop = true;
  return verb;
}

Verb stoppable_train() {
  Verb verb = heeding_stop(train_verb());
  verb.memory_hint =
      "try a smaller train.micro_batch, train.loss_chunk_tokens or train.recompute=true";
  return verb;
}

}  // namespace

const std::vector<Verb>& verbs() {
  static const std::vector<Verb> all{tokenizer_train_verb(),
                                     prepare_verb(),
                                     stoppable_train(),
                                     heeding_stop(launch_verb()),
                                     slurm_verb(),
                                     estimate_verb(),
                                     plot_verb(),
                                     heeding_stop(eval_perplexity_verb()),
                                     eval_logits_verb(),
                                     heeding_stop(eval_choice_verb()),
                                     generate_verb(),
                                     serve_verb(),
                                     runtime::bench_verb(),
                                     export_verb(),
                                     import_verb(),
                                     inspect_verb(),
                                     config_verb()};
  return all;
}

}  // namespace fbi::cli
