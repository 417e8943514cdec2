#include "text/byte_bpe_file.h"

#include <array>
#include <limits>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/log.h"
#include "fbi/text/tokenizer.h"
#include "text/utf8.h"

namespace fbi::text {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

/// The characters that stand for bytes: printable ones of Latin-1 for themselves, the others for
/// U+0100 and on in order of the bytes.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable =
          (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      byte_of_.emplace(printable ? static_cast<char32_t>(byte) : next++, static_cast<char>(byte));
    }
  }
  /// nullopt when a character stands for no byte.
  std::optional<std::string> bytes_of(std::string_view spelling) const {
    std::string bytes;
    while (!spelling.empty()) {
      const Utf8Character front = decode_front(spelling);
      const auto found = byte_of_.find(front.code);
      if (found == byte_of_.end()) return std::nullopt;
      bytes.push_back(found->second);
      spelling.remove_prefix(static_cast<std::size_t>(front.length));
    }
    return bytes;
  }

 private:
  std::unordered_map<char32_t, char> byte_of_;
};

/// Copying a value and showing it in a message take stack for every level.
constexpr int kMaxDepth = 32;
Json parse_flat(const fs::path& path, const std::string& text) {
  const auto is_flat = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > kMaxDepth)
      throw DataError(concat(path.string(), ": more than ", kMaxDepth, " levels of nesting"));
    return true;
  };
  try {
    return Json::parse(text, is_flat);
  } catch (const Json::exception& error) {
    throw DataError(concat(path.string(), ": broken JSON: ", error.what()));
  }
}

class FileReader {
 public:
  FileReader(const fs::path& path, const Json& root)
      : path_(path), place_(path.string()), root_(root) {}

  ByteBpeFile read() {
    if (!root_.is_object()) fail("expected an object");
    check_model(part("model"));
    expect_null(part("normalizer"), "normalizer");
    read_split(part("pre_tokenizer"));
    if (part("decoder").value("type", "") != "ByteLevel") refuse("decoder", part("decoder"));
    read_pieces();
    read_merges(part("model")["merges"]);
    read_special_ids();
    return std::move(file_);
  }

 private:
  template <class... Args>
  [[noreturn]] void fail(const Args&... args) const {
    throw DataError(concat(place_, ": ", args...));
  }
  static std::string shown(const Json& value) {
    constexpr std::size_t kLongest = 200;
    const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    return text.size() > kLongest ? text.substr(0, kLongest) + "..." : text;
  }
  [[noreturn]] void refuse(const char* what, const Json& found) const {
    throw OtherTokenizer(concat(
        place_, ": ", what, " ", shown(found),
        " is not implemented; byte-level BPE as of Llama-3, GPT-2 or SmolLM is, and SentencePiece "
        "as tokenizer.model"));
  }
  const Json& part(const char* name) const {
    static const Json null;
    const auto found = root_.find(name);
    return found == root_.end() ? null : *found;
  }
  void expect_null(const Json& value, const char* name) const {
    if (!value.is_null()) refuse(name, value);
  }

  void check_model(const Json& model) {
    if (!model.is_object() || model.value("type", "BPE") != "BPE" || !model.contains("vocab") ||
        !model.contains("merges")) {
      refuse("model", model.is_object() ? model.value("type", Json()) : model);
    }
    for (const char* key : {"dropout", "unk_token"}) expect_null(model.value(key, Json()), key);
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const Json value = model.value(key, Json());
      if (!value.is_null() && value != "") refuse(key, value);
    }
    if (model.value("byte_fallback", false)) refuse("byte_fallback", true);
    file_.whole_words_first = model.value("ignore_merges", false);
  }

  /// Whether a Split gives what its pattern matches, which of those known is all of a text.
  static bool keeps_all(const Json& split) {
    const bool inverted = split.value("invert", false);
    return split.value("behavior", "") == (inverted ? "Removed" : "Isolated");
  }

  void read_split(const Json& pre_tokenizer) {
    const auto is_byte_level = [](const Json& value, bool use_regex) {
      return value.is_object() && value.value("type", "") == "ByteLevel" &&
             !value.value("add_prefix_space", true) && value.value("use_regex", true) == use_regex;
    };
    if (is_byte_level(pre_tokenizer, true)) {
      file_.split = WordSplit::kGpt2;
      return;
    }
    const Json steps = pre_tokenizer.is_object()
                           ? pre_tokenizer.value("pretokenizers", Json::array())
                           : Json::array();
    if (steps.size() == 2 && steps[0].value("type", "") == "Digits" &&
        steps[0].value("individual_digits", false) && is_byte_level(steps[1], true)) {
      file_.split = WordSplit::kSmolLm;
      return;
    }
    if (steps.size() != 2 || !is_byte_level(steps[1], false) ||
        steps[0].value("type", "") != "Split" || !keeps_all(steps[0])) {
      refuse("pre_tokenizer", pre_tokenizer);
    }
    const Json pattern = steps[0].value("pattern", Json::object()).value("Regex", Json(""));
    const auto split = word_split_of(pattern.get<std::string>());
    if (!split) refuse("pre_tokenizer", pattern);
    file_.split = *split;
  }

  void read_pieces() {
    const ByteAlphabet alphabet;
    std::unordered_map<std::int32_t, ByteBpeFile::Piece> pieces;
    for (const auto& [spelling, id] : part("model")["vocab"].items()) {
      const auto bytes = alphabet.bytes_of(spelling);
      ids_.emplace(spelling, whole_number(id, spelling));
      pieces[ids_.at(spelling)] = {spelling, bytes.value_or(""), PieceType::kNormal};
      if (!bytes) not_bytes_.push_back(spelling);
    }
    for (const Json& token : part("added_tokens")) {
      const auto content = token.at("content").get<std::string>();
      if (!token.value("special", false)) refuse("added token that is not special", content);
      const std::int32_t id = whole_number(token.at("id"), content);
      ids_[content] = id;
      pieces[id] = {content, content, PieceType::kControl};
    }
    for (std::size_t id = 0; id < pieces.size(); ++id) {
      const auto found = pieces.find(static_cast<std::int32_t>(id));
      if (found == pieces.end())
        fail("no piece has the id ", id, " although there are ", pieces.size(), " pieces");
      file_.pieces.push_back(std::move(found->second));
      const ByteBpeFile::Piece& piece = file_.pieces.back();
      if (piece.type == PieceType::kNormal)
        file_.id_of_bytes.emplace(piece.bytes, static_cast<std::int32_t>(id));
    }
    check_bytes();
  }
  void check_bytes() const {
    for (const std::string& spelling : not_bytes_) {
      if (file_.pieces[static_cast<std::size_t>(ids_.at(spelling))].type == PieceType::kNormal) {
        fail("piece ", shown(spelling), " is not spelled in the byte-level alphabet");
      }
    }
    // Texts are UTF-8, in which these do not occur.
    const auto occurs = [](int byte) { return byte < 0xC0 || (byte > 0xC1 && byte < 0xF5); };
    int missing = 0;
    for (int byte = 0; byte < 256; ++byte)
      missing +=
          occurs(byte) && !file_.id_of_bytes.contains(std::string(1, static_cast<char>(byte)));
    if (missing > 0)
      log::info(path_.string(), " has no pieces for ", missing,
                " bytes; they are left out of texts, as the library of Hugging Face does it");
  }
  std::int32_t whole_number(const Json& value, const std::string& piece) const {
    if (!value.is_number_unsigned() ||
        value.get<std::uint64_t>() > std::numeric_limits<std::int32_t>::max()) {
      fail("id of ", shown(piece), ": expected a whole number, found ", shown(value));
    }
    return value.get<std::int32_t>();
  }

  void read_merges(const Json& merges) {
    if (!merges.is_array()) fail("merges: expected a list");
    std::int32_t rank = 0;
    for (const Json& merge : merges) {
      const auto [left, right] = pair_of(merge);
      const std::int32_t joined = id_of(left + right, merge);
      file_.merges.insert_or_assign(merge_key(id_of(left, merge), id_of(right, merge)),
                                    ByteBpeFile::Merge{rank++, joined});
    }
  }
  std::pair<std::string, std::string> pair_of(const Json& merge) const {
    if (merge.is_array() && merge.size() == 2)
      return {merge[0].get<std::string>(), merge[1].get<std::string>()};
    const auto text = merge.get<std::string>();
    const auto space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
      fail("merge ", shown(merge), ": expected two pieces");
    return {text.substr(0, space), text.substr(space + 1)};
  }
  std::int32_t id_of(const std::string& spelling, const Json& merge) const {
    const auto found = ids_.find(spelling);
    if (found == ids_.end())
      fail("merge ", shown(merge), ": ", shown(spelling), " is not in the vocabulary");
    return found->second;
  }

  void read_special_ids() {
    const fs::path config_file = path_.parent_path() / "tokenizer_config.json";
    const Json config =
        fs::exists(config_file) ? parse_flat(config_file, read_file(config_file)) : Json::object();
    const auto named = [&](const char* key) -> std::optional<std::int32_t> {
      Json token = config.value(key, Json());
      if (token.is_object()) token = token.value("content", Json());
      if (token.is_null()) return std::nullopt;
      const auto found = ids_.find(token.get<std::string>());
      if (found == ids_.end())
        fail(key, " ", shown(token), " of tokenizer_config.json is not in the vocabulary");
      return found->second;
    };
    const auto required = [&](const char* key) {
      const auto id = named(key);
      if (!id) fail("expected ", key, " in tokenizer_config.json beside it");
      return *id;
    };
    file_.bos_id = required("bos_token");
    file_.eos_id = required("eos_token");
    file_.pad_id = named("pad_token");
  }

  const fs::path& path_;
  const std::string place_;
  const Json& root_;
  ByteBpeFile file_;
  std::unordered_map<std::string, std::int32_t> ids_;  // by spelling
  std::vector<std::string> not_bytes_;
};

}  // namespace

ByteBpeFile read_byte_bpe_file(const fs::path& path, const std::string& json) {
  try {
    return FileReader(path, parse_flat(path, json)).read();
  } catch (const Json::exception& error) {
    throw DataError(concat(path.string(), ": not a sound tokenizer.json: ", error.what()));
  }
}

}  // namespace fbi::text
