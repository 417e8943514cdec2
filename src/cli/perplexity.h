#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "cli/verb.h"
#include "fbi/eval/perplexity.h"
#include "fbi/eval/windows.h"
#include "fbi/text/tokenizer.h"

namespace fbi::cli {

/// --tokens, --text, --seq-len, --max-tokens: the pieces of text that a model is evaluated on.
std::vector<Option> window_options();
/// `own`: the file of the model's tokenizer where there is one; --tokenizer counts before it.
/// `load` is called for --text only.
eval::WindowSource open_windows(const Arguments& arguments, std::int64_t vocab_size,
                                const std::filesystem::path& own,
                                const std::function<std::unique_ptr<text::Tokenizer>()>& load);

/// window_options() and --batch, --max-windows, --json.
std::vector<Option> perplexity_options();
/// nullopt when a stop was asked for meanwhile.
using Measure =
    std::function<std::optional<eval::PerplexityResult>(const eval::PerplexityOptions&)>;
/// Measures; with a progress bar and a line of results if this process `prints`.
int print_perplexity(const Measure& measure, const Arguments& arguments, bool prints = true);
/// Of the packed model that --model names.
int print_packed_perplexity(const Arguments& arguments);

}  // namespace fbi::cli
