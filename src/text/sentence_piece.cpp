#include "text/sentence_piece.h"

#include <sentencepiece_processor.h>

#include <algorithm>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/hash.h"
#include "text/model_file.h"
#include "text/stream_decoder.h"
#include "text/utf8.h"

namespace fbi::text {

namespace {

class SentencePieceTokenizer final : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(const std::filesystem::path& path)
      : path_(path), bytes_(read_file(path)) {
    auto model = parse_model_file(bytes_);
    if (!model) throw not_a_model("malformed, truncated or without pieces");
    model_ = std::move(*model);
    const auto status = processor_.LoadFromSerializedProto(bytes_);
    if (!status.ok()) throw not_a_model(status.ToString());
    if (static_cast<std::size_t>(processor_.GetPieceSize()) != model_.pieces.size()) {
      throw not_a_model("the number of pieces is ambiguous");
    }
    bos_id_ = required(processor_.bos_id(), "a piece that begins a text (<s>)");
    eos_id_ = required(processor_.eos_id(), "a piece that ends a text (</s>)");
    unk_id_ = required(processor_.unk_id(), "an unknown piece (<unk>)");
    if (processor_.pad_id() >= 0) pad_id_ = processor_.pad_id();
    hash_ = hash128_hex(std::as_bytes(std::span(bytes_.data(), bytes_.size())));
  }

  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<int> ids;
    const auto status = processor_.Encode(absl::string_view(text.data(), text.size()), &ids);
    if (!status.ok())
      throw DataError(concat("cannot encode text with ", path_.string(), ": ", status.ToString()));
    return ids;
  }

  std::unique_ptr<StreamDecoder> start_decoding() const override {
    return make_stream_decoder(model_);
  }

  std::int64_t vocab_size() const override {
    return static_cast<std::int64_t>(model_.pieces.size());
  }
  std::int32_t bos_id() const override { return bos_id_; }
  std::int32_t eos_id() const override { return eos_id_; }
  std::optional<std::int32_t> unk_id() const override { return unk_id_; }
  std::optional<std::int32_t> pad_id() const override { return pad_id_; }

  const std::string& piece(std::int32_t id) const override { return at(id).text; }
  float score(std::int32_t id) const override { return at(id).score; }
  PieceType type(std::int32_t id) const override { return at(id).type; }
  bool adds_space_prefix() const override { return model_.add_dummy_prefix; }
  std::string why_no_tokenizer_json() const override;

  const std::filesystem::path& path() const override { return path_; }
  const std::string& file_bytes() const override { return bytes_; }
  const std::string& file_hash() const override { return hash_; }

 private:
  DataError not_a_model(const std::string& reason) const {
    return DataError(concat(path_.string(), " is not a SentencePiece model (", reason,
                            "); expected a file as `fbi-llm tokenizer` or spm_train writes it"));
  }
  std::int32_t required(int id, const char* what) const {
    if (id < 0)
      throw DataError(concat(path_.string(), " has no ", what, ", which LLaMA models need"));
    return id;
  }
  const ModelFile::Piece& at(std::int32_t id) const {
    if (id < 0 || id >= vocab_size()) {
      throw UsageError(concat("token id ", id, " is outside the vocabulary of ", vocab_size()));
    }
    return model_.pieces[id];
  }

  std::filesystem::path path_;
  std::string bytes_;
  std::string hash_;
  ModelFile model_;
  sentencepiece::SentencePieceProcessor processor_;
  std::int32_t bos_id_ = 0, eos_id_ = 0, unk_id_ = 0;
  std::optional<std::int32_t> pad_id_;
};

std::string SentencePieceTokenizer::why_no_tokenizer_json() const {
  if (model_.algorithm != ModelFile::Algorithm::kBpe) return "it is not a BPE model";
  if (!model_.byte_fallback) return "it has no byte fallback";
  if (model_.has_character_map) return "it normalises characters";
  if (!model_.add_dummy_prefix || model_.remove_extra_whitespaces || !model_.escape_whitespaces ||
      model_.whitespace_as_suffix) {
    return "it treats spaces differently from LLaMA tokenizers";
  }
  for (const ModelFile::Piece& piece : model_.pieces) {
    if (piece.type == PieceType::kUserDefined || piece.type == PieceType::kUnused) {
      return "it has user-defined or unused pieces";
    }
    if (!is_utf8(piece.text)) return "a piece is not valid UTF-8";
  }
  return {};
}

}  // namespace

std::unique_ptr<Tokenizer> load_sentencepiece(const std::filesystem::path& file) {
  return std::make_unique<SentencePieceTokenizer>(file);
}

}  // namespace fbi::text
