#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "cli/verb.h"
#include "fbi/infer/packed_model.h"
#include "fbi/text/tokenizer.h"

/// Options of verbs that run a packed model; without LibTorch.
namespace fbi::cli {

/// --activations, --head and --cache: how a packed model is run.
std::vector<Option> packed_options();
/// --device, which packed_options_of reads too.
Option device_option();
/// --head-screen, for verbs that draw tokens; packed_options_of reads it, too.
Option head_screen_option();
/// --model, --tokenizer, --threads, --device and packed_options().
std::vector<Option> packed_model_options();
/// UsageError, also when --model is a run or a checkpoint, which is to be packed first.
infer::PackedOptions packed_options_of(const Arguments& arguments);

std::vector<Option> joined(std::vector<Option> options, const std::vector<Option>& more);

/// --tokenizer, else `own` (may be empty). DataError when there is none, or its vocabulary is
/// larger than the model's.
std::unique_ptr<text::Tokenizer> load_fitting_tokenizer(const Arguments& arguments,
                                                        const std::filesystem::path& model,
                                                        const std::filesystem::path& own,
                                                        std::int64_t vocab_size);
/// The same with the tokenizer in the model's folder; DataError when it is not what was exported.
std::unique_ptr<text::Tokenizer> load_packed_tokenizer(const Arguments& arguments,
                                                       const infer::PackedModel& model);

}  // namespace fbi::cli
