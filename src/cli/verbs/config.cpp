#include <iostream>

#include "cli/verbs.h"
#include "fbi/config/compare.h"
#include "fbi/config/describe.h"
#include "fbi/config/load.h"
#include "fbi/core/error.h"

namespace fbi::cli {
namespace {

int run_config(const Arguments& arguments) {
  if (!arguments.has("config"))
    arguments.refuse({"set", "world-size"}, "changes what --config reads: give that, too");
  for (const char* page : {"explain", "markdown"})
    if (arguments.has(page))
      arguments.refuse({"config"}, concat("is not read with --", page, ": give one of them"));
  if (arguments.has("explain")) {
    std::cout << config::explain(arguments.text("explain"));
  } else if (arguments.has("markdown")) {
    std::cout << config::markdown_reference();
  } else if (arguments.has("config")) {
    config::LoadOptions options;
    options.overrides = arguments.list("set");
    options.world_size = arguments.integer("world-size");
    std::cout << config::to_json(config::load_run_config(arguments.text("config"), options));
  } else {
    std::cout << config::help_text();
  }
  return 0;
}

}  // namespace

Verb config_verb() {
  return {
      "config",
      "explain, check and resolve configurations",
      "Without options lists every field with its default. With --config checks a file and prints "
      "it with all defaults and "
      "derived values filled in; problems are reported all at once, with the nearest valid key.",
      "config",
      {{"config", "FILE", "JSON with comments, e.g. configs/130m.json"},
       {"set", "KEY=VALUE", "change a field, e.g. optimizer.lr=2e-4", "", false, true},
       {"world-size", "N", "ranks that share train.global_batch", "1"},
       {"explain", "KEY", "explain one field or section, e.g. optimizer.lr"},
       {"markdown", "", "print docs/config.md"}},
      {"fbi-llm config configs/130m.json --set train.micro_batch=16",
       "fbi-llm config --explain optimizer"},
      run_config};
}

}  // namespace fbi::cli
