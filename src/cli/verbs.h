#pragma once

#include "cli/verb.h"

/// Verbs are defined in src/cli/verbs/.
namespace fbi::cli {

Verb tokenizer_train_verb();
Verb prepare_verb();
Verb train_verb();
Verb launch_verb();
Verb slurm_verb();
Verb estimate_verb();
Verb plot_verb();
Verb eval_perplexity_verb();
Verb eval_logits_verb();
Verb eval_choice_verb();
Verb export_verb();
Verb generate_verb();
Verb import_verb();
Verb inspect_verb();
Verb serve_verb();
Verb bench_verb();
Verb config_verb();

}  // namespace fbi::cli
