#pragma once

#include "cli/verb.h"

/// Verbs of fbi-run that fbi-llm has in another form, or not at all.
namespace fbi::cli::runtime {

Verb generate_verb();
Verb perplexity_verb();
Verb choice_verb();

}  // namespace fbi::cli::runtime
