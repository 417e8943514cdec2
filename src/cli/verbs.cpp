#include "cli/verbs.h"

namespace fbi::cli {
const std::vector<Verb>& verbs() {
  static const std::vector<Verb> all{
      tokenizer_train_verb(), prepare_verb(),     train_verb(),    launch_verb(),
      slurm_verb(),           estimate_verb(),    plot_verb(),     eval_perplexity_verb(),
      eval_logits_verb(),     eval_choice_verb(), generate_verb(), serve_verb(),
      bench_verb(),           export_verb(),      import_verb(),   inspect_verb(),
      config_verb()};
  return all;
}

}  // namespace fbi::cli
