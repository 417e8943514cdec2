#pragma once

#include "fbi/config/run_config.h"
#include "fbi/data/training_data.h"

namespace fbi::train {

/// Ids must mean the same to the data, a teacher and the model that training begins with: compares
/// the tokenizer beside the data with the one that made the shards and with theirs, as far as they
/// are there (published Amber
/// files come without). DataError naming both and the first id that differs. Warns where BOS or EOS
/// of the configuration are not those of the data's tokenizer.
void check_tokenizers(const config::RunConfig& config, const data::TrainingData& data);

}  // namespace fbi::train
