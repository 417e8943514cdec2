#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "config/small_model.h"
#include "fbi/infer/engine.h"
#include "infer/word_tokenizer.h"

namespace fbi::infer {

inline constexpr std::chrono::seconds kLong{60};  // nothing here takes so long
inline constexpr std::int64_t kVocab = 61;

inline config::ModelConfig engine_model() {
  config::ModelConfig model = config::small_model();
  model.vocab_size = kVocab;
  model.max_position_embeddings = 64;
  return model;
}

/// Words "a" to "zz"; fewer than the model has tokens. With the gate closed, nothing gets over the
/// end of a text.
class Words final : public text::Tokenizer {
 public:
  Words() : words_(letters()) {}

  void close() {
    const std::lock_guard lock(mutex_);
    open_ = false;
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  /// Returns when somebody stands before the gate.
  void wait_for_somebody() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, kLong, [this] { return standing_ > 0; }));
  }

  std::vector<std::int32_t> encode(std::string_view text) const override {
    return words_.encode(text);
  }
  std::unique_ptr<text::StreamDecoder> start_decoding() const override {
    return std::make_unique<Decoder>(*this);
  }
  std::int64_t vocab_size() const override { return words_.vocab_size(); }
  std::int32_t bos_id() const override { return words_.bos_id(); }
  std::int32_t eos_id() const override { return words_.eos_id(); }
  std::optional<std::int32_t> unk_id() const override { return words_.unk_id(); }
  std::optional<std::int32_t> pad_id() const override { return words_.pad_id(); }
  const std::string& piece(std::int32_t id) const override { return words_.piece(id); }
  float score(std::int32_t id) const override { return words_.score(id); }
  text::PieceType type(std::int32_t id) const override { return words_.type(id); }
  bool adds_space_prefix() const override { return false; }
  std::string why_no_tokenizer_json() const override { return words_.why_no_tokenizer_json(); }
  const std::filesystem::path& path() const override { return words_.path(); }
  const std::string& file_bytes() const override { return words_.file_bytes(); }
  const std::string& file_hash() const override { return words_.file_hash(); }

 private:
  class Decoder final : public text::StreamDecoder {
   public:
    explicit Decoder(const Words& owner) : owner_(owner), inner_(owner.words_.start_decoding()) {}
    std::string feed(std::int32_t id) override { return inner_->feed(id); }
    std::string finish() override {
      std::unique_lock lock(owner_.mutex_);
      ++owner_.standing_;
      owner_.changed_.notify_all();
      owner_.changed_.wait_for(lock, kLong, [this] { return owner_.open_; });
      --owner_.standing_;
      return inner_->finish();
    }

   private:
    const Words& owner_;
    std::unique_ptr<text::StreamDecoder> inner_;
  };

  static std::vector<std::string> letters() {
    std::vector<std::string> words = {"\xE2"};
    for (char c = 'a'; c <= 'z'; ++c)
      words.insert(words.end(), {std::string(1, c), std::string(2, c)});
    return words;
  }

  WordTokenizer words_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  mutable int standing_ = 0;
  bool open_ = true;
};

class EngineTest : public ::testing::Test {
 protected:
  EngineRequest request(const std::string& prompt, GenerateOptions options) {
    return {prompt_ids(model, words, prompt, true), std::move(options)};
  }

  /// Fetches all news until the end; the texts by index.
  static std::vector<std::string> fetch(Generation& generation, std::size_t count) {
    std::vector<std::string> texts(count);
    while (!generation.ended()) {
      const auto all = generation.wait(kLong);
      EXPECT_FALSE(all.empty());
      if (all.empty()) break;
      for (const auto& news : all) texts[news.index] += news.text;
    }
    return texts;
  }

  PackedModel model{engine_model(), {.threads = 2}};
  Words words;
};

}  // namespace fbi::infer
