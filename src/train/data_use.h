#pragma once

#include <string>
#include <vector>

#include "fbi/config/run_config.h"
#include "fbi/data/training_data.h"

namespace fbi::train {

/// What a run reads of a corpus, for people.
struct CorpusUse {
  std::string text;  ///< path and share where there are several, samples, files, epochs
  double epochs = 0;
};

/// Of each corpus. DataError for shards without samples; files of JSON lines, which would have to
/// be read as a whole, are not counted, so of them neither samples nor epochs are told.
std::vector<CorpusUse> data_use(const config::RunConfig& config, const data::TrainingData& data);

}  // namespace fbi::train
