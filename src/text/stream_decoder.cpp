#include "text/stream_decoder.h"

#include <charconv>

#include "fbi/core/error.h"
#include "text/utf8.h"

namespace fbi::text {

namespace {

class SentencePieceDecoder final : public StreamDecoder {
 public:
  explicit SentencePieceDecoder(const ModelFile& model) : model_(model) {}

  std::string feed(std::int32_t id) override {
    if (id < 0 || static_cast<std::size_t>(id) >= model_.pieces.size()) {
      throw UsageError(
          concat("token id ", id, " is outside the vocabulary of ", model_.pieces.size()));
    }
    const ModelFile::Piece& piece = model_.pieces[id];
    std::string out;
    if (piece.type == PieceType::kByte) {
      held_bytes_.push_back(byte_of_piece(piece.text));
      out = take_characters(held_bytes_, false);
    } else {
      out = take_characters(held_bytes_, true);
      at_start_ = at_start_ && out.empty();
      append_piece(piece, out);
    }
    at_start_ = at_start_ && out.empty();
    return out;
  }

  std::string finish() override { return take_characters(held_bytes_, true); }

 private:
  void append_piece(const ModelFile::Piece& piece, std::string& out) {
    if (piece.type == PieceType::kControl) return;
    if (piece.type == PieceType::kUnknown) {
      out += model_.unk_surface;
      return;
    }
    std::string_view text = piece.text;
    const bool drop_space =
        at_start_ && (model_.add_dummy_prefix || model_.remove_extra_whitespaces);
    if (drop_space && text.starts_with(kSpacePiece)) {
      text.remove_prefix(kSpacePiece.size());
      at_start_ = model_.remove_extra_whitespaces;  // then the spaces of later pieces go too
    }
    while (!text.empty()) {
      const std::size_t space = text.find(kSpacePiece);
      out += text.substr(0, space);
      if (space == std::string_view::npos) break;
      out += ' ';
      text.remove_prefix(space + kSpacePiece.size());
    }
  }

  const ModelFile& model_;
  std::string held_bytes_;
  bool at_start_ = true;  // the space put before the text may still come
};

}  // namespace

char byte_of_piece(std::string_view piece) {
  unsigned value = 0;
  if (piece.size() == 6) std::from_chars(piece.data() + 3, piece.data() + 5, value, 16);
  return static_cast<char>(value);
}

std::unique_ptr<StreamDecoder> make_stream_decoder(const ModelFile& model) {
  return std::make_unique<SentencePieceDecoder>(model);
}

}  // namespace fbi::text
