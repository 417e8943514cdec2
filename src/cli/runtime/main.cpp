#include "cli/runtime/verbs.h"
#include "cli/verbs.h"

namespace fbi::cli {
namespace {

/// A verb of fbi-llm under this program's name.
Verb renamed(Verb verb) {
  for (std::string& example : verb.examples)
    if (example.starts_with("fbi-llm ")) example.replace(0, 7, program().name);
  return verb;
}

}  // namespace

const Program& program() {
  static const Program self{
      "fbi-run",
      "fbi-run runs binarized LLaMA models (FBI-LLM) from their sign bits, without LibTorch.",
      "Models come from fbi-llm export --format packed.\n", "try --cache fp16 or a smaller model"};
  return self;
}

const std::vector<Verb>& verbs() {
  static const std::vector<Verb> all{runtime::generate_verb(),   renamed(serve_verb()),
                                     runtime::perplexity_verb(), runtime::choice_verb(),
                                     renamed(bench_verb()),      renamed(inspect_verb())};
  return all;
}

}  // namespace fbi::cli

int main(int argc, char** argv) {
  return fbi::cli::run_program(argc, argv);
}
