#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "infer/batch.h"
#include "infer/word_tokenizer.h"

namespace fbi::infer {

inline constexpr std::int64_t kSmallVocab = 8;

/// A byte for each position.
class NotedCache final : public SequenceCache {
 public:
  explicit NotedCache(const std::int64_t& most) : most_(most) {}
  void reserve(std::int64_t positions) override {
    if (positions > most_) throw std::bad_alloc();
    reserved = std::max(reserved, positions);
  }
  void copy(const SequenceCache& other, std::int64_t positions) override {
    from = &other;
    copied = positions;
  }
  std::uint64_t bytes() const override { return static_cast<std::uint64_t>(reserved); }
  std::uint64_t position_bytes() const override { return 1; }
  std::unique_ptr<SequenceCache> trimmed(std::int64_t positions) const override {
    auto part = std::make_unique<NotedCache>(most_);
    part->reserve(positions);
    part->copy(*this, positions);
    return part;
  }

  std::int64_t reserved = 0, copied = 0;
  const SequenceCache* from = nullptr;

 private:
  const std::int64_t& most_;
};

/// Notes what it is fed; all logits are 0.
class NotedForward final : public Forward {
 public:
  std::unique_ptr<SequenceCache> new_cache(std::int64_t) override {
    return std::make_unique<NotedCache>(most_positions);
  }
  void run(std::span<const TokenRow> rows) override {
    EXPECT_LE(std::ssize(rows), kMaxRows);
    for (const TokenRow& row : rows) {
      EXPECT_LT(row.position, static_cast<NotedCache*>(row.cache)->reserved);
      ++fed[row.cache];
    }
  }
  void logits(std::int64_t, std::int64_t count, float* out) override {
    std::fill_n(out, count * kSmallVocab, 0.0f);
  }
  double read_bandwidth(std::uint64_t) override { return 0; }

  std::map<const SequenceCache*, std::int64_t> fed;  // rows of each
  std::int64_t most_positions = 1 << 30;             // for which a cache finds memory
};

/// Continuations ask a model how large it is.
class Sizes final : public eval::LanguageModel {
 public:
  std::int64_t vocab_size() const override { return kSmallVocab; }
  std::int64_t max_position() const override { return 100000; }
  std::string dtype_description() const override { return "none"; }
  void logits(std::span<const std::int32_t>, std::int64_t, std::int64_t,
              std::span<float>) override {}
  void token_nll(std::span<const std::int32_t>, std::int64_t, std::int64_t,
                 std::span<float>) override {}
  std::unique_ptr<eval::DecodingSession> start_decoding() override { return nullptr; }
};

/// Makes sequences of such a model.
class NotedSequences {
 public:
  Sequence& add(std::vector<std::int32_t> prompt, const GenerateOptions& options) {
    owned_.push_back(std::make_unique<Sequence>(words_, sizes_, options, std::move(prompt), nullptr,
                                                forward.new_cache(sizes_.max_position())));
    return *owned_.back();
  }
  const std::vector<std::unique_ptr<Sequence>>& all() const { return owned_; }

  NotedForward forward;

 private:
  WordTokenizer words_{{"a", "b", "c", "d", "e"}};
  Sizes sizes_;
  std::vector<std::unique_ptr<Sequence>> owned_;
};

}  // namespace fbi::infer
