#include "train/data_use.h"

#include <cmath>

#include "fbi/core/error.h"

namespace fbi::train {
namespace {

/// "less than 0.01", "0.25", "3.5", "3452310"
std::string times(double epochs) {
  if (epochs < 0.01) return "less than 0.01";
  return epochs < 100 ? concat(std::round(epochs * 100) / 100)
                      : concat(static_cast<std::int64_t>(epochs));
}

/// "data/web, 70 % of the run: "; empty where all data are one corpus.
std::string title(const data::Corpus& corpus, double share) {
  if (corpus.path.empty()) return {};
  return concat(corpus.path, ", ", std::round(share * 1e5) / 1e3, " % of the run: ");
}

}  // namespace

std::vector<CorpusUse> data_use(const config::RunConfig& config, const data::TrainingData& data) {
  const config::TrainConfig& train = config.train;
  std::vector<CorpusUse> uses;
  for (std::int64_t k = 0; k < std::ssize(data.corpora()); ++k) {
    const data::Corpus& corpus = data.corpora()[k];
    const double share = data.mixture().share(k);
    const std::string name = title(corpus, share);
    const std::string kind =
        concat("samples of ", data.ids_per_sample(), " ids in ", corpus.files, " file(s)");
    if (config.data.format != config::DataFormat::kShards) {
      uses.push_back({name + kind});
      continue;
    }
    const std::int64_t samples = data.samples_per_epoch(k);
    if (samples == 0) throw DataError(name + "the training data has no samples");
    const double epochs = share * static_cast<double>(train.steps) *
                          static_cast<double>(train.global_batch) / static_cast<double>(samples);
    uses.push_back(
        {concat(name, samples, ' ', kind, "; the run reads them ", times(epochs), " times"),
         epochs});
  }
  return uses;
}

}  // namespace fbi::train
