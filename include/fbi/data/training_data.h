#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fbi/config/run_config.h"
#include "fbi/data/mixture.h"
#include "fbi/data/sample_order.h"
#include "fbi/data/sample_source.h"

namespace fbi::data {

/// Files that are read in an order of their own, epoch after epoch.
struct Corpus {
  std::string path;  ///< entry of data.paths; empty where all of them are one corpus
  double weight = 1;
  std::int64_t files = 0;  ///< that follow one another in the list of files, skipped ones counted
};

/// The samples of a run: corpora, their files, and the order. Const members may be called from
/// several threads.
class TrainingData {
 public:
  /// A null file is a skipped one: it keeps its place in the numbering, so that the order within
  /// other files stays. Without `corpora`, all files are one.
  TrainingData(std::vector<std::unique_ptr<SampleSource>> files, std::uint64_t seed,
               std::string tokenizer_hash = "", std::vector<Corpus> corpora = {});

  std::int64_t ids_per_sample() const { return ids_per_sample_; }
  /// DataError when it is the turn of a corpus without samples.
  SampleId sample_at(std::int64_t position) const;
  /// Samples [first, first + count) of the order, ids [count, ids_per_sample].
  void read(std::int64_t first, std::int64_t count, std::span<std::int32_t> ids) const;

  /// Needs the number of samples of every file of the corpus: indexes JSON lines that have no index
  /// yet.
  std::int64_t samples_per_epoch(std::int64_t corpus = 0) const {
    return orders_[corpus].samples_per_epoch();
  }

  const std::vector<Corpus>& corpora() const { return corpora_; }
  const Mixture& mixture() const { return mixture_; }
  /// XXH3-128 of the tokenizer that prepared the shards; empty when unknown.
  const std::string& tokenizer_hash() const { return tokenizer_hash_; }

 private:
  std::vector<std::unique_ptr<SampleSource>> files_;  // null where skipped
  std::int64_t ids_per_sample_ = 0;
  std::string tokenizer_hash_;
  std::vector<Corpus> corpora_;
  Mixture mixture_;
  std::deque<SampleOrder> orders_;  // of each corpus
};

/// The files that each entry of data.paths stands for, skipped ones included: a folder gives its
/// `*.tokens` (shards) or `*.jsonl` (amber) files in order of name, without those that begin with
/// `valid-`. DataError when one is missing or a folder has none.
std::vector<std::vector<std::filesystem::path>> expand_data_paths(const config::DataConfig& data);

/// What tells a file of samples from others, wherever it lies.
struct FileContent {
  std::string name;  ///< without its folder
  std::uint64_t bytes = 0;
  std::string xxh3_128;  ///< of a shard's samples, as its header says; of both ends of JSON lines
  std::int64_t position = 0;  ///< in the list of files, skipped ones counted: orders its samples
  std::int64_t corpus = 0;    ///< position of its entry in data.paths where these have weights
};

/// Of all files but the skipped ones, in the order of reading. Reads headers and ends of files.
/// Throws as expand_data_paths, and DataError for a file that is no shard.
std::vector<FileContent> training_contents(const config::DataConfig& data);

/// Opens and checks all files but the skipped ones: ids per sample against train.seq_len + 1, ids
/// against vocab_size, shards made by one tokenizer. Line indexes are built when they are needed,
/// shard hashes checked when a shard is first read. Throws DataError naming file, expected, found
/// and remedy; UsageError for data.skip_files and data.weights.
std::unique_ptr<TrainingData> open_training_data(const config::DataConfig& data,
                                                 const config::TrainConfig& train,
                                                 std::int64_t vocab_size);

/// The tokenizer that `prepare` left beside the data: in the folder of the first of
/// data.paths that has one.
std::optional<std::filesystem::path> find_tokenizer(const config::DataConfig& data);

}  // namespace fbi::data
