#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/infer/packed_model.h"
#include "infer/forward.h"

namespace fbi::infer {

/// The parts of a PackedModel, in the order in which they need each other.
class PackedModel::Impl {
 public:
  /// `source` makes the parts with this model's threads.
  Impl(const PackedOptions& options,
       const std::function<std::unique_ptr<ModelParts>(ParallelFor&)>& source)
      : options_(options), team_(options.threads) {
    auto parts = source(team_.pool());
    config_ = parts->config();
    forward_ = make_forward(std::move(parts), options, team_);
  }

  const PackedOptions& options() const { return options_; }
  const config::ModelConfig& config() const { return config_; }
  Team& team() { return team_; }
  Forward& forward() const { return *forward_; }

  void check_ids(std::span<const std::int32_t> ids) const {
    for (const std::int32_t id : ids) {
      if (id < 0 || id >= config_.vocab_size) {
        throw UsageError(
            concat("token id ", id, " is outside the model's vocabulary of ", config_.vocab_size));
      }
    }
  }

  void check_length(std::int64_t tokens) const {
    if (tokens > config_.max_position_embeddings) {
      throw UsageError(concat("sequence of ", tokens, " tokens exceeds max_position_embeddings ",
                              config_.max_position_embeddings));
    }
  }

  /// Feeds a sequence whose cache holds `position` tokens; after each piece of at most kMaxRows
  /// tokens calls done(first token, tokens), with their hidden states in forward().
  template <class Done>
  void feed(std::span<const std::int32_t> ids, std::int64_t position, SequenceCache& cache,
            const Done& done) {
    check_ids(ids);
    const auto count = std::ssize(ids);
    check_length(position + count);
    cache.reserve(position + count);
    std::vector<TokenRow> rows;
    for (std::int64_t t = 0; t < count; ++t) rows.push_back({ids[t], position + t, &cache});
    run(rows, done);
  }

  /// The same with rows of any texts, whose caches have room for them.
  template <class Done>
  void run(std::span<const TokenRow> rows, const Done& done) {
    for (std::int64_t first = 0; first < std::ssize(rows); first += Forward::kMaxRows) {
      const std::int64_t size = std::min(Forward::kMaxRows, std::ssize(rows) - first);
      forward_->run(rows.subspan(first, size));
      done(first, size);
    }
  }

  /// Adds the log-likelihood of each text to `sums`; their ids and lengths are checked.
  void score(std::span<const eval::ScoredText> texts, std::vector<double>& sums);

 private:
  PackedOptions options_;
  Team team_;
  config::ModelConfig config_;
  std::unique_ptr<Forward> forward_;
};

}  // namespace fbi::infer
