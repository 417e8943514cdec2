#include "cli/generation.h"

#include "cli/model_arguments.h"
#include "cli/packed_arguments.h"
#include "cli/verbs.h"

namespace fbi::cli {
namespace {

int run_generate(const Arguments& arguments) {
  if (infer::is_packed_folder(arguments.text("model"))) {
    refuse_unpacked_options(arguments);
    infer::PackedModel model(arguments.text("model"), packed_options_of(arguments));
    return generate_text(model, model.config(), *load_packed_tokenizer(arguments, model),
                         arguments);
  }
  refuse_packed_options(arguments);
  const auto loaded = load_model(arguments);
  const auto tokenizer = load_model_tokenizer(arguments, loaded.folder);
  return generate_text(*loaded.model, loaded.folder.config, *tokenizer, arguments);
}

}  // namespace

Verb generate_verb() {
  return {"generate",
          "continue a prompt",
          "Loads a run, checkpoint, export or Hugging Face folder and streams a continuation of "
          "the prompt, with a key-value cache. "
          "A packed export runs from its sign bits; --activations, --head, --head-screen and "
          "--cache are for it, --dtype is for the others.",
          "",
          joined(joined(joined(model_options(), packed_options()), {head_screen_option()}),
                 generation_options()),
          {"fbi-llm generate --model quickstart/student --prompt \"Once upon a time\" "
           "--max-new-tokens 100 --temperature 0.7 --seed 1"},
          run_generate};
}

}  // namespace fbi::cli
