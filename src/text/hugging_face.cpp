#include "fbi/text/hugging_face.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "fbi/core/file.h"
#include "text/tokenizer_files.h"
#include "text/utf8.h"

namespace fbi::text {

namespace {

using Json = nlohmann::json;

/// The pairs that SentencePiece's BPE may join, best first. A model file stores joined pieces with
/// their scores only; tokenizer.json wants every way to form each. Among those of one piece the
/// order does not matter for LLaMA vocabularies (measured over random and real text), so it is by
/// ids, as other converters have it.
Json bpe_merges(const Tokenizer& tokenizer) {
  std::unordered_map<std::string_view, std::int32_t> ids;
  std::vector<std::int32_t> joined;
  for (std::int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    ids.emplace(tokenizer.piece(id), id);
    if (tokenizer.type(id) == PieceType::kNormal) joined.push_back(id);
  }
  std::stable_sort(joined.begin(), joined.end(), [&tokenizer](std::int32_t a, std::int32_t b) {
    return tokenizer.score(a) > tokenizer.score(b);
  });
  Json merges = Json::array();
  for (const std::int32_t id : joined) {
    const std::string_view piece = tokenizer.piece(id);
    std::vector<std::pair<std::int32_t, std::int32_t>> pairs;
    for (std::size_t cut = 1; cut < piece.size(); ++cut) {
      const auto left = ids.find(piece.substr(0, cut));
      const auto right = ids.find(piece.substr(cut));
      if (left != ids.end() && right != ids.end()) pairs.emplace_back(left->second, right->second);
    }
    std::sort(pairs.begin(), pairs.end());
    for (const auto& [left, right] : pairs) {
      merges.push_back(tokenizer.piece(left) + " " + tokenizer.piece(right));
    }
  }
  return merges;
}

Json added_tokens(const Tokenizer& tokenizer) {
  Json tokens = Json::array();
  for (std::int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const PieceType type = tokenizer.type(id);
    if (type != PieceType::kControl && type != PieceType::kUnknown) continue;
    tokens.push_back({{"id", id},
                      {"content", tokenizer.piece(id)},
                      {"single_word", false},
                      {"lstrip", false},
                      {"rstrip", false},
                      {"normalized", false},
                      {"special", true}});
  }
  return tokens;
}

/// BOS before each sequence.
Json post_processor(const Tokenizer& tokenizer) {
  const std::string& bos = tokenizer.piece(tokenizer.bos_id());
  const auto special = [&bos](int type) {
    return Json{{"SpecialToken", {{"id", bos}, {"type_id", type}}}};
  };
  const auto sequence = [](const char* id, int type) {
    return Json{{"Sequence", {{"id", id}, {"type_id", type}}}};
  };
  Json processor;
  processor["type"] = "TemplateProcessing";
  processor["single"] = Json::array({special(0), sequence("A", 0)});
  processor["pair"] = Json::array({special(0), sequence("A", 0), special(1), sequence("B", 1)});
  processor["special_tokens"][bos] = {
      {"id", bos}, {"ids", Json::array({tokenizer.bos_id()})}, {"tokens", Json::array({bos})}};
  return processor;
}

Json replace(std::string_view from, std::string_view to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

Json bpe_model(const Tokenizer& tokenizer) {
  Json vocabulary = Json::object();
  for (std::int32_t id = 0; id < tokenizer.vocab_size(); ++id) vocabulary[tokenizer.piece(id)] = id;
  Json model;
  model["type"] = "BPE";
  model["dropout"] = nullptr;
  model["unk_token"] = tokenizer.piece(*tokenizer.unk_id());
  model["continuing_subword_prefix"] = nullptr;
  model["end_of_word_suffix"] = nullptr;
  model["fuse_unk"] = true;
  model["byte_fallback"] = true;
  model["vocab"] = std::move(vocabulary);
  model["merges"] = bpe_merges(tokenizer);
  return model;
}

Json tokenizer_json(const Tokenizer& tokenizer) {
  Json json;
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = added_tokens(tokenizer);
  json["normalizer"] = {
      {"type", "Sequence"},
      {"normalizers", Json::array({Json{{"type", "Prepend"}, {"prepend", kSpacePiece}},
                                   replace(" ", kSpacePiece)})}};
  json["pre_tokenizer"] = nullptr;
  json["post_processor"] = post_processor(tokenizer);
  json["decoder"] = {
      {"type", "Sequence"},
      {"decoders",
       Json::array({replace(kSpacePiece, " "), Json{{"type", "ByteFallback"}},
                    Json{{"type", "Fuse"}},
                    Json{{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}})}};
  json["model"] = bpe_model(tokenizer);
  return json;
}

Json special_tokens_map(const Tokenizer& tokenizer) {
  Json map = {{"bos_token", tokenizer.piece(tokenizer.bos_id())},
              {"eos_token", tokenizer.piece(tokenizer.eos_id())}};
  if (tokenizer.unk_id()) map["unk_token"] = tokenizer.piece(*tokenizer.unk_id());
  if (tokenizer.pad_id()) map["pad_token"] = tokenizer.piece(*tokenizer.pad_id());
  return map;
}

/// The class that takes tokenizer.json as it stands. LlamaTokenizer rebuilds its own pipeline in
/// recent versions of transformers and then loses leading spaces; it is named only where there is
/// no tokenizer.json, with `legacy`, the setting closest to SentencePiece.
Json tokenizer_config(const Tokenizer& tokenizer, bool has_json, std::int64_t model_max_length) {
  Json config = special_tokens_map(tokenizer);
  config["add_bos_token"] = true;
  config["add_eos_token"] = false;
  config["clean_up_tokenization_spaces"] = false;
  config["legacy"] = true;
  // Without it the class adds token_type_ids, which generate() of a LLaMA refuses.
  config["model_input_names"] = {"input_ids", "attention_mask"};
  config["model_max_length"] = model_max_length;
  config["tokenizer_class"] = has_json ? "PreTrainedTokenizerFast" : "LlamaTokenizer";
  return config;
}

}  // namespace

std::string write_hugging_face_tokenizer(const Tokenizer& tokenizer,
                                         const std::filesystem::path& directory,
                                         std::int64_t model_max_length) {
  const std::string obstacle = tokenizer.why_no_tokenizer_json();
  save_tokenizer(tokenizer, directory);
  // Everything is said in its author's own files.
  if (is_tokenizer_json(tokenizer)) return obstacle;
  if (obstacle.empty()) {
    write_file(directory / "tokenizer.json", tokenizer_json(tokenizer).dump(1) + "\n");
  }
  write_file(directory / "tokenizer_config.json",
             tokenizer_config(tokenizer, obstacle.empty(), model_max_length).dump(2) + "\n");
  write_file(directory / "special_tokens_map.json", special_tokens_map(tokenizer).dump(2) + "\n");
  return obstacle;
}

}  // namespace fbi::text
