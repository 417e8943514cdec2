#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fbi/eval/language_model.h"

namespace fbi::eval {

/// A language model whose next-token logits depend on the last token only: row `id` of a table [V,
/// V].
class BigramModel final : public LanguageModel {
 public:
  BigramModel(std::int64_t vocab_size, std::int64_t max_position)
      : vocab_size_(vocab_size), max_position_(max_position), table_(vocab_size * vocab_size) {}

  float& logit(std::int64_t previous, std::int64_t next) {
    return table_[previous * vocab_size_ + next];
  }
  /// Makes every likelihood depend a little on the number of rows in its forward, as matrix
  /// libraries do.
  void set_batch_noise(float noise) { batch_noise_ = noise; }
  std::vector<std::pair<std::int64_t, std::int64_t>> calls;  ///< (batch, seq) of token_nll

  std::int64_t vocab_size() const override { return vocab_size_; }
  std::int64_t max_position() const override { return max_position_; }
  std::string dtype_description() const override { return "fp32"; }

  void logits(std::span<const std::int32_t> tokens, std::int64_t batch, std::int64_t seq,
              std::span<float> out) override {
    for (std::int64_t t = 0; t < batch * seq; ++t) {
      copy_row(tokens[t], out.subspan(t * vocab_size_, vocab_size_));
    }
  }

  void token_nll(std::span<const std::int32_t> tokens, std::int64_t batch, std::int64_t seq,
                 std::span<float> out) override {
    calls.emplace_back(batch, seq);
    for (std::int64_t b = 0; b < batch; ++b) {
      for (std::int64_t s = 0; s + 1 < seq; ++s) {
        out[b * (seq - 1) + s] =
            static_cast<float>(nll(tokens[b * seq + s], tokens[b * seq + s + 1])) +
            batch_noise_ * static_cast<float>(batch);
      }
    }
  }

  double nll(std::int32_t previous, std::int32_t next) const {
    double sum = 0;
    for (std::int64_t v = 0; v < vocab_size_; ++v) sum += std::exp(double(at(previous, v)));
    return std::log(sum) - at(previous, next);
  }

  std::unique_ptr<DecodingSession> start_decoding() override;

 private:
  friend class BigramSession;
  float at(std::int64_t previous, std::int64_t next) const {
    return table_[previous * vocab_size_ + next];
  }
  void copy_row(std::int32_t id, std::span<float> out) const {
    for (std::int64_t v = 0; v < vocab_size_; ++v) out[v] = at(id, v);
  }

  std::int64_t vocab_size_, max_position_;
  float batch_noise_ = 0;
  std::vector<float> table_;
};

class BigramSession final : public DecodingSession {
 public:
  explicit BigramSession(const BigramModel& model) : model_(model) {}
  void feed(std::span<const std::int32_t> ids, std::span<float> logits) override {
    position_ += static_cast<std::int64_t>(ids.size());
    if (ids.empty() || position_ > model_.max_position()) throw std::logic_error("bad feed");
    model_.copy_row(ids.back(), logits);
  }
  std::int64_t position() const override { return position_; }

 private:
  const BigramModel& model_;
  std::int64_t position_ = 0;
};

inline std::unique_ptr<DecodingSession> BigramModel::start_decoding() {
  return std::make_unique<BigramSession>(*this);
}

}  // namespace fbi::eval
