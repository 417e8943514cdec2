#include "fbi/data/training_data.h"

#include <algorithm>
#include <system_error>

#include "data/shard_source.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/hash.h"
#include "fbi/text/tokenizer.h"

namespace fbi::data {

namespace fs = std::filesystem;

namespace {

std::vector<double> weights_of(const std::vector<Corpus>& corpora) {
  std::vector<double> weights;
  for (const Corpus& corpus : corpora) weights.push_back(corpus.weight);
  return weights;
}

}  // namespace

TrainingData::TrainingData(std::vector<std::unique_ptr<SampleSource>> files, std::uint64_t seed,
                           std::string tokenizer_hash, std::vector<Corpus> corpora)
    : files_(std::move(files)),
      tokenizer_hash_(std::move(tokenizer_hash)),
      corpora_(corpora.empty() ? std::vector<Corpus>{{.path = {}, .files = std::ssize(files_)}}
                               : std::move(corpora)),
      mixture_(weights_of(corpora_)) {
  const auto count = [this](std::int64_t file) {
    return files_[file] ? files_[file]->sample_count() : 0;
  };
  std::int64_t first_file = 0;
  for (const Corpus& corpus : corpora_) {
    orders_.emplace_back(corpus.files, count, seed, first_file);
    first_file += corpus.files;
  }
  for (const auto& file : files_) {
    if (!file) continue;
    if (ids_per_sample_ == 0) ids_per_sample_ = file->ids_per_sample();
    if (file->ids_per_sample() != ids_per_sample_) {
      throw UsageError(concat(file->path().string(), ": expected ", ids_per_sample_,
                              " ids per sample as in the files before, found ",
                              file->ids_per_sample()));
    }
  }
}

SampleId TrainingData::sample_at(std::int64_t position) const {
  const Mixture::Place place = mixture_.at(position);
  return orders_[place.corpus].at(place.position);
}

void TrainingData::read(std::int64_t first, std::int64_t count, std::span<std::int32_t> ids) const {
  if (std::ssize(ids) != count * ids_per_sample_) {
    throw UsageError(concat("expected room for ", count, " samples of ", ids_per_sample_,
                            " ids, found ", ids.size()));
  }
  for (std::int64_t k = 0; k < count; ++k) {
    const SampleId id = sample_at(first + k);
    files_[id.file]->read(id.sample, ids.subspan(k * ids_per_sample_, ids_per_sample_));
  }
}

namespace {

std::vector<fs::path> files_of_folder(const fs::path& folder, const std::string& extension) {
  std::vector<fs::path> files;
  std::error_code error;
  const fs::directory_iterator entries(folder, error);
  if (error) throw DataError(concat("data.paths: ", folder.string(), ": ", error.message()));
  for (const auto& entry : entries) {
    const fs::path& path = entry.path();
    if (path.extension() == extension && !path.filename().string().starts_with("valid-")) {
      files.push_back(path);
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

/// [k] says whether file k is left out.
std::vector<bool> skipped_files(const std::vector<std::int64_t>& skip_files, std::int64_t files) {
  std::vector<bool> skipped(files);
  for (const std::int64_t index : skip_files) {
    if (index < 0 || index >= files) {
      throw UsageError(concat("data.skip_files: expected positions from 0 to ", files - 1,
                              " (data.paths give ", files, " files), found ", index));
    }
    skipped[index] = true;
  }
  if (std::find(skipped.begin(), skipped.end(), false) == skipped.end()) {
    throw UsageError(concat("data.skip_files leaves none of the ", files, " files of data.paths"));
  }
  return skipped;
}

/// The entries of data.paths with their weights; none where these are not given.
std::vector<Corpus> weighted_corpora(const config::DataConfig& data,
                                     const std::vector<std::vector<fs::path>>& files,
                                     const std::vector<bool>& skipped) {
  std::vector<Corpus> corpora;
  auto of_corpus = skipped.begin();
  for (std::size_t k = 0; k < data.weights.size(); ++k) {
    corpora.push_back({data.paths[k], data.weights[k], std::ssize(files[k])});
    const auto end = of_corpus + std::ssize(files[k]);
    if (std::find(of_corpus, end, false) == end) {
      throw UsageError(concat("data.skip_files leaves none of the ", files[k].size(), " files of ",
                              data.paths[k], ", but data.weights[", k, "] is ", data.weights[k],
                              "; take the entry out of data.paths and data.weights"));
    }
    of_corpus = end;
  }
  return corpora;
}

std::unique_ptr<SampleSource> open_shard(const fs::path& path, std::int64_t seq_len,
                                         std::int64_t vocab_size, std::string& tokenizer_hash) {
  auto shard = std::make_unique<ShardSource>(path);
  const formats::TokenShardInfo& info = shard->info();
  if (info.ids_per_sample != seq_len + 1) {
    throw DataError(concat(path.string(), ": expected ", seq_len + 1,
                           " ids per sample (train.seq_len ", seq_len, " + 1), found ",
                           info.ids_per_sample,
                           "; set train.seq_len=", std::int64_t{info.ids_per_sample} - 1,
                           " or prepare the data with --seq-len ", seq_len));
  }
  if (info.vocab_size > vocab_size) {
    throw DataError(concat(path.string(), ": expected a vocabulary of at most ", vocab_size,
                           " (model.vocab_size), found ", info.vocab_size,
                           "; set model.vocab_size=", info.vocab_size,
                           " or prepare the data with the model's tokenizer"));
  }
  if (tokenizer_hash.empty()) tokenizer_hash = info.tokenizer_hash;
  if (!info.tokenizer_hash.empty() && info.tokenizer_hash != tokenizer_hash) {
    throw DataError(concat(path.string(), ": expected the tokenizer of the shards before, ",
                           tokenizer_hash, ", found ", info.tokenizer_hash,
                           "; prepare all data with one tokenizer"));
  }
  return shard;
}

FileContent content_of(const fs::path& path, config::DataFormat format) {
  const MappedFile file(path);
  return {path.filename().string(), file.bytes().size(),
          format == config::DataFormat::kShards ? formats::TokenShard(path).info().samples_hash
                                                : hash128_of_ends_hex(file.bytes())};
}

}  // namespace

std::vector<std::vector<fs::path>> expand_data_paths(const config::DataConfig& data) {
  if (data.paths.empty())
    throw UsageError("data.paths is empty: expected files or folders of training data");
  const bool shards = data.format == config::DataFormat::kShards;
  const std::string extension = shards ? ".tokens" : ".jsonl";
  std::vector<std::vector<fs::path>> files;
  for (const std::string& text : data.paths) {
    const fs::path path(text);
    std::error_code error;
    if (!fs::exists(path, error)) {
      throw DataError(
          concat("data.paths: ", text, ": ", error ? error.message() : "no such file or folder"));
    }
    files.push_back(fs::is_directory(path) ? files_of_folder(path, extension)
                                           : std::vector<fs::path>{path});
    if (files.back().empty()) {
      throw DataError(concat("data.paths: expected training files *", extension, " in the folder ",
                             text,
                             ", found none (folders inside it are not searched); is "
                             "data.format=",
                             shards ? "shards" : "amber", " right?"));
    }
  }
  return files;
}

std::vector<FileContent> training_contents(const config::DataConfig& data) {
  const auto by_entry = expand_data_paths(data);
  std::int64_t count = 0;
  for (const auto& entry : by_entry) count += std::ssize(entry);
  const auto skipped = skipped_files(data.skip_files, count);
  auto is_skipped = skipped.begin();
  std::vector<FileContent> contents;
  for (std::size_t entry = 0; entry < by_entry.size(); ++entry) {
    for (const fs::path& path : by_entry[entry]) {
      if (*is_skipped++) continue;
      contents.push_back(content_of(path, data.format));
      contents.back().position = is_skipped - skipped.begin() - 1;
      if (!data.weights.empty()) contents.back().corpus = static_cast<std::int64_t>(entry);
    }
  }
  return contents;
}

std::unique_ptr<TrainingData> open_training_data(const config::DataConfig& data,
                                                 const config::TrainConfig& train,
                                                 std::int64_t vocab_size) {
  const auto by_entry = expand_data_paths(data);
  std::vector<fs::path> paths;
  for (const auto& entry : by_entry) paths.insert(paths.end(), entry.begin(), entry.end());
  const auto skipped = skipped_files(data.skip_files, std::ssize(paths));
  const JsonLinesOptions amber{
      .ids_per_sample = train.seq_len + 1, .vocab_size = vocab_size, .index_dir = data.index_dir};
  std::vector<std::unique_ptr<SampleSource>> files(paths.size());
  std::string tokenizer_hash;
  for (std::size_t k = 0; k < paths.size(); ++k) {
    if (skipped[k]) continue;
    files[k] = data.format == config::DataFormat::kShards
                   ? open_shard(paths[k], train.seq_len, vocab_size, tokenizer_hash)
                   : open_json_lines(paths[k], amber);
  }
  return std::make_unique<TrainingData>(std::move(files), data.seed, tokenizer_hash,
                                        weighted_corpora(data, by_entry, skipped));
}

std::optional<fs::path> find_tokenizer(const config::DataConfig& data) {
  for (const std::string& name : data.paths) {
    const fs::path path(name);
    const fs::path file = text::find_tokenizer(fs::is_directory(path) ? path : path.parent_path());
    if (!file.empty()) return file;
  }
  return std::nullopt;
}

}  // namespace fbi::data
