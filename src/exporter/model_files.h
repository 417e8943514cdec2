#pragma once

#include <filesystem>

#include "fbi/config/huggingface.h"
#include "fbi/config/run_config.h"
#include "fbi/formats/safetensors.h"
#include "fbi/text/tokenizer.h"

namespace fbi::exporter {

/// config.json and generation_config.json of a Hugging Face folder.
void write_model_configuration(const std::filesystem::path& directory,
                               const config::ModelConfig& model, formats::DType dtype,
                               config::ModelName name = config::ModelName::kLlama);

/// Throws UsageError when the tokenizer, which may be null, has more pieces than the model.
void check_tokenizer_fits(const text::Tokenizer* tokenizer, const config::ModelConfig& model);

}  // namespace fbi::exporter
