#include "text/byte_bpe.h"

#include <algorithm>
#include <queue>
#include <utility>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/hash.h"
#include "fbi/text/byte_level.h"
#include "text/byte_bpe_file.h"
#include "text/stream_decoder.h"
#include "text/utf8.h"

namespace fbi::text {
namespace {

/// The pieces of one word: a list in which neighbours are joined, best merge first, of equal ones
/// the leftmost.
class WordMerger {
 public:
  WordMerger(const ByteBpeFile& file, std::string_view word) : file_(file) {
    for (const char byte : word) {
      const auto found = file.id_of_bytes.find(std::string(1, byte));
      if (found == file.id_of_bytes.end()) continue;  // it has no piece
      const auto place = static_cast<std::int32_t>(symbols_.size());
      symbols_.push_back({found->second, place - 1, place + 1});
    }
    if (!symbols_.empty()) symbols_.back().next = -1;
    for (std::size_t i = 0; i + 1 < symbols_.size(); ++i) offer(static_cast<std::int32_t>(i));
  }

  void append_to(std::vector<std::int32_t>& ids) {
    while (!candidates_.empty()) {
      const Candidate best = candidates_.top();
      candidates_.pop();
      Symbol& left = symbols_[static_cast<std::size_t>(best.place)];
      if (left.id < 0 || left.next < 0) continue;  // joined to another meanwhile
      const auto found = merge_at(best.place);
      if (!found || found->id != best.id) continue;
      join(best.place, found->id);
    }
    for (std::int32_t place = symbols_.empty() ? -1 : 0; place >= 0;
         place = symbols_[static_cast<std::size_t>(place)].next) {
      ids.push_back(symbols_[static_cast<std::size_t>(place)].id);
    }
  }

 private:
  struct Symbol {
    std::int32_t id;  // -1: part of one before it
    std::int32_t previous, next;
  };
  struct Candidate {
    std::int32_t rank, place, id;
    bool operator<(const Candidate& other) const {  // the top of a queue is the largest
      return std::pair(rank, place) > std::pair(other.rank, other.place);
    }
  };

  const ByteBpeFile::Merge* merge_at(std::int32_t place) const {
    const Symbol& left = symbols_[static_cast<std::size_t>(place)];
    const auto found =
        file_.merges.find(merge_key(left.id, symbols_[static_cast<std::size_t>(left.next)].id));
    return found == file_.merges.end() ? nullptr : &found->second;
  }
  void offer(std::int32_t place) {
    if (const auto* merge = merge_at(place)) candidates_.push({merge->rank, place, merge->id});
  }
  void join(std::int32_t place, std::int32_t id) {
    Symbol& left = symbols_[static_cast<std::size_t>(place)];
    Symbol& right = symbols_[static_cast<std::size_t>(left.next)];
    left.id = id;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) {
      symbols_[static_cast<std::size_t>(left.next)].previous = place;
      offer(place);
    }
    if (left.previous >= 0) offer(left.previous);
  }

  const ByteBpeFile& file_;
  std::vector<Symbol> symbols_;
  std::priority_queue<Candidate> candidates_;
};

class ByteDecoder final : public StreamDecoder {
 public:
  explicit ByteDecoder(const Tokenizer& tokenizer, const ByteBpeFile& file)
      : tokenizer_(tokenizer), file_(file) {}
  std::string feed(std::int32_t id) override {
    if (tokenizer_.type(id) == PieceType::kControl) return take_characters(held_bytes_, true);
    held_bytes_ += file_.pieces[static_cast<std::size_t>(id)].bytes;
    return take_characters(held_bytes_, false);
  }
  std::string finish() override { return take_characters(held_bytes_, true); }

 private:
  const Tokenizer& tokenizer_;
  const ByteBpeFile& file_;
  std::string held_bytes_;
};

class ByteBpeTokenizer final : public Tokenizer {
 public:
  explicit ByteBpeTokenizer(const std::filesystem::path& path)
      : path_(path),
        bytes_(read_file(path)),
        file_(read_byte_bpe_file(path, bytes_)),
        hash_(hash128_hex(std::as_bytes(std::span(bytes_.data(), bytes_.size())))) {}

  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::string repaired;
    if (!is_utf8(text)) {
      std::string broken(text);
      repaired = take_characters(broken, /*all=*/true);
      text = repaired;
    }
    std::vector<std::int32_t> ids;
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = word_end(file_.split, text, begin);
      append_word(text.substr(begin, end - begin), ids);
      begin = end;
    }
    return ids;
  }

  std::unique_ptr<StreamDecoder> start_decoding() const override {
    return std::make_unique<ByteDecoder>(*this, file_);
  }

  std::int64_t vocab_size() const override {
    return static_cast<std::int64_t>(file_.pieces.size());
  }
  std::int32_t bos_id() const override { return file_.bos_id; }
  std::int32_t eos_id() const override { return file_.eos_id; }
  std::optional<std::int32_t> unk_id() const override { return std::nullopt; }
  std::optional<std::int32_t> pad_id() const override { return file_.pad_id; }

  const std::string& piece(std::int32_t id) const override { return at(id).spelling; }
  float score(std::int32_t id) const override {
    at(id);
    return 0;
  }
  PieceType type(std::int32_t id) const override { return at(id).type; }
  bool adds_space_prefix() const override { return false; }
  std::string why_no_tokenizer_json() const override { return {}; }

  const ByteBpeFile& file() const { return file_; }
  const std::filesystem::path& path() const override { return path_; }
  const std::string& file_bytes() const override { return bytes_; }
  const std::string& file_hash() const override { return hash_; }

 private:
  void append_word(std::string_view word, std::vector<std::int32_t>& ids) const {
    if (file_.whole_words_first) {
      if (const auto whole = file_.id_of_bytes.find(std::string(word));
          whole != file_.id_of_bytes.end()) {
        ids.push_back(whole->second);
        return;
      }
    }
    WordMerger(file_, word).append_to(ids);
  }
  const ByteBpeFile::Piece& at(std::int32_t id) const {
    if (id < 0 || id >= vocab_size()) {
      throw UsageError(concat("token id ", id, " is outside the vocabulary of ", vocab_size()));
    }
    return file_.pieces[static_cast<std::size_t>(id)];
  }

  std::filesystem::path path_;
  std::string bytes_;
  ByteBpeFile file_;
  std::string hash_;
};

}  // namespace

std::optional<std::string> piece_bytes(const Tokenizer& tokenizer, std::int32_t id) {
  const PieceType type = tokenizer.type(id);
  if (type == PieceType::kByte) return std::string(1, byte_of_piece(tokenizer.piece(id)));
  const auto* byte_level = dynamic_cast<const ByteBpeTokenizer*>(&tokenizer);
  if (!byte_level || type == PieceType::kControl) return std::nullopt;
  return byte_level->file().pieces[static_cast<std::size_t>(id)].bytes;
}

std::optional<ByteLevelRules> byte_level_rules(const Tokenizer& tokenizer) {
  const auto* byte_level = dynamic_cast<const ByteBpeTokenizer*>(&tokenizer);
  if (!byte_level) return std::nullopt;
  const ByteBpeFile& file = byte_level->file();
  std::vector<std::pair<std::int32_t, std::uint64_t>> by_rank;
  for (const auto& [key, merge] : file.merges) by_rank.emplace_back(merge.rank, key);
  std::sort(by_rank.begin(), by_rank.end());
  ByteLevelRules rules{file.split, {}};
  for (const auto& [rank, key] : by_rank) {
    const auto left = static_cast<std::size_t>(key >> 32),
               right = static_cast<std::size_t>(key & 0xFFFFFFFF);
    rules.merges.push_back(file.pieces[left].spelling + " " + file.pieces[right].spelling);
  }
  return rules;
}

std::unique_ptr<Tokenizer> load_byte_bpe(const std::filesystem::path& file) {
  return std::make_unique<ByteBpeTokenizer>(file);
}

}  // namespace fbi::text
