#include "cli/verb.h"

namespace fbi::cli {

const Program& program() {
  static const Program self{
      "fbi-llm",
      "fbi-llm trains, evaluates, exports and runs fully binarized LLaMA models (FBI-LLM).",
      "First time here? ./scripts/quickstart.sh does everything once, on a laptop.\n",
      "try a smaller train.micro_batch, train.loss_chunk_tokens or train.recompute=true"};
  return self;
}

}  // namespace fbi::cli
