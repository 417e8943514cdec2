#pragma once

#include "cli/verb.h"
#include "fbi/config/run_config.h"
#include "fbi/eval/language_model.h"
#include "fbi/text/tokenizer.h"

namespace fbi::cli {

/// --prompt, --max-new-tokens, sampling, --stop, --json: the same for every kind of model.
std::vector<Option> generation_options();

/// Streams the continuation to standard output, or prints it as JSON.
int generate_text(eval::LanguageModel& model, const config::ModelConfig& config,
                  const text::Tokenizer& tokenizer, const Arguments& arguments);

}  // namespace fbi::cli
