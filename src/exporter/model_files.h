#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "fbi/config/huggingface.h"
#include "fbi/config/run_config.h"
#include "fbi/formats/safetensors.h"
#include "fbi/text/tokenizer.h"

namespace fbi::exporter {

/// config.json and generation_config.json of a Hugging Face folder.
void write_model_configuration(const std::filesystem::path& directory,
                               const config::ModelConfig& model, formats::DType dtype,
                               config::ModelName name = config::ModelName::kLlama);

/// Throws UsageError when the tokenizer, which may be null, has more pieces than the model. The
/// result says where its BOS and EOS are not the model's.
std::vector<std::string> check_tokenizer_fits(const text::Tokenizer* tokenizer,
                                              const config::ModelConfig& model);

/// The files of a tokenizer that need not be read, as far as `source` has them.
void copy_tokenizer_files(const std::filesystem::path& source, const std::filesystem::path& target);

}  // namespace fbi::exporter
