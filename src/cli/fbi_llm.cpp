#include "cli/verb.h"

namespace fbi::cli {

const Program& program() {
  static const Program self{
      "fbi-llm",
      "fbi-llm trains, evaluates, exports and runs fully binarized LLaMA models (FBI-LLM).",
      "First time here? ./scripts/quickstart.sh does everything once, on a laptop. The usual "
      "order:\n"
      "prepare, train --dry-run, train, plot, eval, export, generate. `fbi-llm config` lists what "
      "a run can be told.\n",
      "try a smaller train.micro_batch, train.loss_chunk_tokens or train.recompute=true"};
  return self;
}

}  // namespace fbi::cli
