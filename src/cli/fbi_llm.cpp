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
      "use a smaller --batch where there is one, a smaller model, or a machine with more memory",
      true};
  return self;
}

}  // namespace fbi::cli
