#include "data/dataset_file.h"

#include <nlohmann/json.hpp>

#include "data/documents.h"
#include "fbi/core/error.h"
#include "fbi/core/file.h"
#include "fbi/core/hash.h"
#include "fbi/formats/token_shard.h"

namespace fbi::data {

namespace {

using Json = nlohmann::json;
/// 2: lines of spaces at either end of a document are taken off. 3: empty texts of JSON lines are
/// no documents.
constexpr int kFormatVersion = 3;

std::string content_hash(const std::filesystem::path& path, const Progress& progress) {
  InputFile file(path);
  std::vector<std::byte> buffer(4 << 20);
  Hasher128 hasher;
  std::uint64_t done = 0;
  while (const std::size_t count = file.read(buffer)) {
    hasher.update(std::span(buffer).first(count));
    done += count;
    if (progress) progress("reading " + path.string(), done, file.size());
  }
  return hasher.hex();
}

Json part_to_json(const PreparedPart& part) {
  return {{"documents", part.documents},
          {"ids", part.ids},
          {"samples", part.samples},
          {"dropped_ids", part.dropped_ids},
          {"files", part.files}};
}

PreparedPart part_from_json(const Json& json) {
  return {json.at("documents"), json.at("ids"), json.at("samples"), json.at("dropped_ids"),
          json.at("files")};
}

void check_shards(const std::filesystem::path& folder, const PreparedPart& part) {
  std::int64_t samples = 0;
  for (const std::string& file : part.files) {
    samples += static_cast<std::int64_t>(formats::TokenShard(folder / file).info().sample_count);
  }
  if (samples != part.samples) {
    throw DataError(concat(folder.string(), ": expected ", part.samples, " samples (", kDatasetFile,
                           "), found ", samples, "; delete the folder and prepare again"));
  }
}

/// Paths such as "options/seq_len" whose values differ.
std::string differences(const Json& a, const Json& b) {
  const Json left = a.flatten(), right = b.flatten();
  Json keys = left;
  keys.update(right);
  std::vector<std::string> names;
  for (const auto& [key, value] : keys.items()) {
    if (left.value(key, Json()) != right.value(key, Json())) {
      names.push_back(key.substr(1));
    }
  }
  return join(names);
}

[[noreturn]] void refuse(const std::filesystem::path& folder, const std::string& why) {
  throw UsageError(concat("the output folder ", folder.string(), " is not empty and ", why,
                          "; choose another folder or delete it"));
}

}  // namespace

Json dataset_identity(const PrepareOptions& options, const PrepareResult& facts,
                      const text::Tokenizer* tokenizer, const Progress& progress) {
  const char* formats[] = {"by name", "jsonl", "text"};
  Json tokenizer_facts = {{"xxh3_128", facts.tokenizer_hash}, {"vocab_size", facts.vocab_size}};
  if (tokenizer) {  // a file beside that of the hash may name these
    tokenizer_facts["bos_id"] = tokenizer->bos_id();
    tokenizer_facts["eos_id"] = tokenizer->eos_id();
  }
  Json inputs = Json::array();
  for (const auto& input : options.inputs) {
    inputs.push_back(
        {{"name", input.filename().string()}, {"xxh3_128", content_hash(input, progress)}});
  }
  Json chosen = {{"format", formats[static_cast<int>(options.format)]},
                 {"field", options.field},
                 {"separator", any_text(options) ? options.separator : ""},
                 {"seq_len", options.seq_len},
                 {"valid_fraction", options.valid_fraction},
                 {"seed", options.valid_fraction > 0 ? options.seed : 0},
                 {"max_shard_bytes", options.max_shard_bytes}};
  if (options.skip_broken > 0) chosen["skip_broken"] = options.skip_broken;
  return {{"format_version", kFormatVersion},
          {"options", chosen},
          {"inputs", inputs},
          {"tokenizer", tokenizer_facts}};
}

std::string dataset_to_json(const Json& identity, const PrepareResult& result) {
  Json json = identity;
  json["train"] = part_to_json(result.train);
  json["valid"] = part_to_json(result.valid);
  if (result.broken_documents > 0) json["broken_documents"] = result.broken_documents;
  // A separator may be any bytes; those that are no UTF-8 are replaced, consistently at every run.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

PrepareResult read_prepared(const std::filesystem::path& folder, const Json& identity) {
  const auto file = folder / kDatasetFile;
  if (!std::filesystem::exists(file)) refuse(folder, concat("holds no ", kDatasetFile));
  PrepareResult result;
  try {
    Json json = Json::parse(read_file(file));
    result.train = part_from_json(json.at("train"));
    result.valid = part_from_json(json.at("valid"));
    result.vocab_size = json.at("tokenizer").at("vocab_size");
    result.tokenizer_hash = json.at("tokenizer").at("xxh3_128");
    result.broken_documents = json.value("broken_documents", std::int64_t{0});
    for (const char* outcome : {"train", "valid", "broken_documents"}) json.erase(outcome);
    const Json expected =
        Json::parse(identity.dump(-1, ' ', false, Json::error_handler_t::replace));
    if (json != expected) {
      refuse(folder, concat("holds data prepared otherwise (", differences(json, expected), ")"));
    }
  } catch (const Json::exception& error) {
    refuse(folder, concat("its ", kDatasetFile, " is broken (", error.what(), ")"));
  }
  check_shards(folder, result.train);
  check_shards(folder, result.valid);
  result.already_done = true;
  return result;
}

}  // namespace fbi::data
