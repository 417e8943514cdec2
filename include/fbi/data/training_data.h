#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fbi/config/run_config.h"
#include "fbi/data/sample_order.h"
#include "fbi/data/sample_source.h"

namespace fbi::data {

/// The samples of a run: files and their order. Const members may be called from several threads.
class TrainingData {
 public:
  /// A null file is a skipped one: it keeps its place in the numbering, so that the order within
  /// other files stays.
  TrainingData(std::vector<std::unique_ptr<SampleSource>> files, std::uint64_t seed,
               std::string tokenizer_hash = "");

  std::int64_t ids_per_sample() const { return ids_per_sample_; }
  SampleId sample_at(std::int64_t position) const { return order_.at(position); }
  /// Samples [first, first + count) of the order, ids [count, ids_per_sample].
  void read(std::int64_t first, std::int64_t count, std::span<std::int32_t> ids) const;

  /// Needs the number of samples of every file: indexes JSON lines that have no index yet.
  std::int64_t samples_per_epoch() const { return order_.samples_per_epoch(); }
  /// Checks every file as a whole; otherwise a file is checked when its first sample is read.
  /// Throws DataError.
  void verify() const;

  /// Null where skipped.
  const std::vector<std::unique_ptr<SampleSource>>& files() const { return files_; }
  /// XXH3-128 of the tokenizer that prepared the shards; empty when unknown.
  const std::string& tokenizer_hash() const { return tokenizer_hash_; }

 private:
  std::vector<std::unique_ptr<SampleSource>> files_;
  std::int64_t ids_per_sample_ = 0;
  std::string tokenizer_hash_;
  SampleOrder order_;
};

/// The files that data.paths stand for, skipped ones included: a folder gives its `*.tokens`
/// (shards) or `*.jsonl` (amber) files in order of name, without those that begin with `valid-`.
/// DataError when one is missing or a folder has none.
std::vector<std::filesystem::path> expand_data_paths(const config::DataConfig& data);

/// Opens and checks all files but the skipped ones: ids per sample against train.seq_len + 1, ids
/// against vocab_size, shards made by one tokenizer. Line indexes are built when they are needed,
/// shard hashes checked when a shard is first read. Throws DataError naming file, expected, found
/// and remedy; UsageError for data.skip_files.
std::unique_ptr<TrainingData> open_training_data(const config::DataConfig& data,
                                                 const config::TrainConfig& train,
                                                 std::int64_t vocab_size,
                                                 const Progress& progress = {});

/// The tokenizer that `prepare` left beside the data: in the folder of the first of
/// data.paths that has one.
std::optional<std::filesystem::path> find_tokenizer(const config::DataConfig& data);

}  // namespace fbi::data
