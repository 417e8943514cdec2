#include "fbi/exporter/import.h"

#include <iostream>

#include "cli/terminal.h"
#include "cli/verbs.h"
#include "fbi/core/error.h"
#include "fbi/core/human.h"
#include "fbi/core/log.h"
#include "fbi/nn/model_folder.h"

namespace fbi::cli {
namespace {

int run_import(const Arguments& arguments) {
  const auto folder = nn::open_model_folder(arguments.text("from"));
  if (folder.kind == "checkpoint")
    throw UsageError(
        concat(folder.path.string(),
               " is a checkpoint of this program; use: fbi-llm export --format native"));
  nn::require_latent_weights(folder);
  ProgressBar bar;
  exporter::ExportOptions options;
  options.on_progress = [&](const exporter::ExportProgress& progress) {
    bar.show(progress.tensors_done, progress.tensors_total, "tensors");
  };
  auto staged = exporter::import_model(folder.path, folder.config, arguments.text("out"), options);
  bar.clear();
  const auto report = staged.commit();
  const bool binarized = folder.config.binarize != config::Binarize::kNone;
  std::cout << report.directory.string() << ": "
            << (binarized
                    ? concat("binarized model (", config::to_string(folder.config.binarize), ")")
                    : "full-precision model")
            << ", " << report.tensors << " tensors, " << format_bytes(report.bytes)
            << ", bit for bit those of " << folder.path.string() << "\n";
  if (report.zeros.exact || report.zeros.fp16)
    std::cout << "latent weights that are 0: " << report.zeros.exact << " exactly, "
              << report.zeros.fp16 << " in fp16\n";
  if (folder.tokenizer.empty())
    log::warn("no tokenizer in ", folder.path.string(), ", so ", report.directory.string(),
              " has none: transformers and fbi-run need one; put its tokenizer.model, or its "
              "tokenizer.json with tokenizer_config.json, there");
  return 0;
}

}  // namespace

Verb import_verb() {
  return {"import",
          "bring another program's model into this one's form",
          "Reads a Hugging Face LLaMA folder or an FBI-LLM checkpoint as published, of safetensors "
          "or PyTorch *.bin, and writes the same "
          "values as safetensors with a config.json in this program's spelling and the tokenizer's "
          "files. Nothing in a *.bin is executed. "
          "train, eval, generate, inspect and export read such folders directly, too.",
          "",
          {{"from", "DIR", "folder with config.json and tensors", "", true},
           {"out", "DIR", "folder to make", "", true}},
          {"fbi-llm import --from downloads/fbi-llm-1.3b --out models/fbi-1.3b"},
          run_import};
}

}  // namespace fbi::cli
