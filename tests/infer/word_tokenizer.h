#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/text/tokenizer.h"

namespace fbi::infer {

/// Ids 0 <unk>, 1 <s>, 2 </s>, then the given words; encode takes the longest word at each place.
/// The word "\xE2" stands for a piece that leaves a character incomplete: it gives no text until
/// the end of the stream.
class WordTokenizer final : public text::Tokenizer {
 public:
  static constexpr std::int32_t kFirstWord = 3;

  explicit WordTokenizer(std::vector<std::string> words) : pieces_(std::move(words)) {
    pieces_.insert(pieces_.begin(), {"<unk>", "<s>", "</s>"});
  }

  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<std::int32_t> ids;
    while (!text.empty()) {
      std::size_t longest = 0;
      std::int32_t best = 0;
      for (std::int32_t id = kFirstWord; id < vocab_size(); ++id) {
        if (text.starts_with(pieces_[id]) && pieces_[id].size() > longest) {
          longest = pieces_[id].size();
          best = id;
        }
      }
      ids.push_back(best);
      text.remove_prefix(best == 0 ? 1 : longest);
    }
    return ids;
  }
  std::unique_ptr<text::StreamDecoder> start_decoding() const override {
    return std::make_unique<Decoder>(*this);
  }

  std::int64_t vocab_size() const override { return static_cast<std::int64_t>(pieces_.size()); }
  std::int32_t bos_id() const override { return 1; }
  std::int32_t eos_id() const override { return 2; }
  std::optional<std::int32_t> unk_id() const override { return 0; }
  std::optional<std::int32_t> pad_id() const override { return std::nullopt; }
  const std::string& piece(std::int32_t id) const override { return pieces_.at(id); }
  float score(std::int32_t) const override { return 0; }
  text::PieceType type(std::int32_t id) const override {
    return id == 0           ? text::PieceType::kUnknown
           : id < kFirstWord ? text::PieceType::kControl
                             : text::PieceType::kNormal;
  }
  bool adds_space_prefix() const override { return false; }
  std::string why_no_tokenizer_json() const override { return "a test tokenizer"; }
  const std::filesystem::path& path() const override { return path_; }
  const std::string& file_bytes() const override { return nothing_; }
  const std::string& file_hash() const override { return nothing_; }

 private:
  class Decoder final : public text::StreamDecoder {
   public:
    explicit Decoder(const WordTokenizer& tokenizer) : tokenizer_(tokenizer) {}
    std::string feed(std::int32_t id) override {
      if (id < 0 || id >= tokenizer_.vocab_size()) throw UsageError("id outside the vocabulary");
      incomplete_ = tokenizer_.pieces_[id] == "\xE2";
      return id < kFirstWord || incomplete_ ? "" : tokenizer_.pieces_[id];
    }
    std::string finish() override { return incomplete_ ? "\uFFFD" : ""; }

   private:
    const WordTokenizer& tokenizer_;
    bool incomplete_ = false;
  };

  std::vector<std::string> pieces_;
  std::filesystem::path path_ = "words.model";
  std::string nothing_;
};

}  // namespace fbi::infer
