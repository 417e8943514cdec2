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

/// Of each corpus. Counts its samples, for which JSON lines without an index are read as a whole;
/// DataError when there are none. Without `count_samples`, neither they nor epochs are told.
std::vector<CorpusUse> data_use(const config::TrainConfig& train, const data::TrainingData& data,
                                bool count_samples);

}  // namespace fbi::train
