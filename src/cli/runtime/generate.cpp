#include "cli/generation.h"
#include "cli/packed_arguments.h"
#include "cli/runtime/verbs.h"

namespace fbi::cli::runtime {
namespace {

int run(const Arguments& arguments) {
  infer::PackedModel model(arguments.text("model"), packed_options_of(arguments));
  return generate_text(model, model.config(), *load_packed_tokenizer(arguments, model), arguments);
}

}  // namespace

Verb generate_verb() {
  return {"generate",
          "continue a prompt",
          "Loads a packed export and streams a continuation of the prompt, with a key-value cache.",
          "",
          joined(joined(packed_model_options(), {head_screen_option()}), generation_options()),
          {"fbi-run generate --model export/a-packed --prompt \"Once upon a time\" "
           "--max-new-tokens 100 --temperature 0.7 --seed 1",
           "fbi-run generate --model export/a-packed --prompt-file story.txt --activations int8 "
           "--head int8"},
          run};
}

}  // namespace fbi::cli::runtime
