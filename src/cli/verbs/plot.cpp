#include "cli/plot.h"

#include <iostream>

#include "cli/output_check.h"
#include "cli/verbs.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"

namespace fbi::cli {
namespace {

int run_plot(const Arguments& arguments) {
  std::vector<std::filesystem::path> runs;
  for (const auto& run : arguments.list("run")) runs.emplace_back(run);
  std::vector<std::filesystem::path> inputs = runs;
  for (const auto& run : runs) inputs.push_back(run / "metrics.jsonl");
  check_output_file("out", arguments.text("out"), inputs);
  write_file(arguments.text("out"), render_svg(arguments.text("title"), run_panels(runs)));
  std::cout << "wrote " << arguments.text("out") << "\n";
  return 0;
}

}  // namespace

Verb plot_verb() {
  return {"plot",
          "draw the curves of runs into an SVG picture",
          "Draws loss, gradient norm, sign-flip rate and learning rate over steps, several runs in "
          "one picture, which any browser shows. "
          "Works while a run is going on, too.",
          "run",
          {{"run", "RUN", "run directory or metrics.jsonl", "", true, true},
           {"out", "FILE", "SVG file to write", "curves.svg"},
           {"title", "TEXT", "heading of the picture", "fbi-llm"}},
          {"fbi-llm plot runs/a runs/b --out compare.svg"},
          run_plot};
}

}  // namespace fbi::cli
