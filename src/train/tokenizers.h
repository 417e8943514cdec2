#pragma once

#include <filesystem>

#include "fbi/config/run_config.h"
#include "fbi/data/training_data.h"

namespace fbi::train {

/// Ids must mean the same to the data and to a teacher: compares the tokenizer beside the data with
/// the one that made the shards and with the teacher's, as far as they are there (published Amber
/// files come without). DataError naming both and the first id that differs. Warns where BOS or EOS
/// of the configuration are not those of the data's tokenizer.
void check_tokenizers(const config::RunConfig& config, const data::TrainingData& data);

/// The same for the model that training begins with, of which `model` is the tokenizer's file.
void check_first_tokenizer(const config::DataConfig& data, const std::filesystem::path& model);

}  // namespace fbi::train
