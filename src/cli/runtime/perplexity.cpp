#include "cli/perplexity.h"
#include "cli/packed_arguments.h"
#include "cli/runtime/verbs.h"

namespace fbi::cli::runtime {

Verb perplexity_verb() {
  return {"perplexity",
          "measure perplexity by the published method",
          "Independent windows, tail dropped; the mean negative log-likelihood of each window's "
          "predictions, then the mean over windows, "
          "then its exponential.",
          "",
          joined(packed_model_options(), perplexity_options()),
          {"fbi-run perplexity --model export/a-packed --text wikitext2-test.txt --seq-len 2048",
           "fbi-run perplexity --model export/a-packed --tokens data/valid-00000.tokens "
           "--activations int8 --json"},
          print_packed_perplexity};
}

}  // namespace fbi::cli::runtime
