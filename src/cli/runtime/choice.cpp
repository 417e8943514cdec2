#include "cli/choice.h"

#include "cli/packed_arguments.h"
#include "cli/runtime/verbs.h"

namespace fbi::cli::runtime {

Verb choice_verb() {
  return {"choice",
          "measure zero-shot multiple choice as lm-evaluation-harness does",
          "Prints the share of questions that are answered rightly: acc by the largest "
          "log-likelihood of a choice after its context, acc_norm by the largest per character. A "
          "task is a file of JSON lines {\"context\": …, \"choices\": […], \"gold\": i}, or "
          "FORM=FILE with the fields of a data set and the harness's prompt; forms: " +
              join(eval::choice_forms()) +
              ". With all seven, the average of the published table is printed, too.",
          "",
          joined(packed_model_options(), choice_options()),
          {"fbi-run choice --model export/a-packed --tasks piqa=eval/piqa.jsonl --tasks "
           "arc_easy=eval/arc_easy.jsonl",
           "fbi-run choice --model export/a-packed --tasks my_task.jsonl --activations int8 "
           "--json"},
          print_packed_choices};
}

}  // namespace fbi::cli::runtime
