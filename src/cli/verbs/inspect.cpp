#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/verbs.h"
#include "fbi/core/error.h"
#include "fbi/core/hash.h"
#include "fbi/core/human.h"
#include "fbi/formats/checkpoint_reader.h"
#include "fbi/formats/safetensors.h"
#include "fbi/formats/token_shard.h"

namespace fbi::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// Whatever holds the tensors of a folder or file; views stay valid as long as it does.
struct Tensors {
  std::unique_ptr<formats::CheckpointReader> checkpoint;
  std::unique_ptr<formats::TensorFolder> folder;
  std::unique_ptr<formats::SafetensorsFile> file;

  std::vector<std::string> names() const {
    if (checkpoint) return checkpoint->names();
    if (folder) return folder->names();
    std::vector<std::string> out;
    for (const auto& view : file->tensors()) out.push_back(view.name);
    return out;
  }
  const formats::TensorView& at(const std::string& name) const {
    return checkpoint ? checkpoint->at(name) : folder ? folder->at(name) : *file->find(name);
  }
};

Tensors open_tensors(const fs::path& path) {
  Tensors tensors;
  if (fs::is_regular_file(path)) {
    tensors.file = std::make_unique<formats::SafetensorsFile>(path);
  } else if (fs::exists(path / "manifest.json")) {
    tensors.checkpoint = std::make_unique<formats::CheckpointReader>(path);
  } else if (fs::is_directory(path / "checkpoints")) {
    tensors.checkpoint = formats::open_newest_checkpoint(path / "checkpoints");
    if (!tensors.checkpoint) throw CheckpointError(concat(path.string(), ": the run has no checkpoint yet"));
  } else {
    tensors.folder = std::make_unique<formats::TensorFolder>(path);
  }
  return tensors;
}

int inspect_shard(const fs::path& path, bool json) {
  const formats::TokenShard shard(path, /*verify_hash=*/true);
  const auto& info = shard.info();
  if (json) {
    std::cout << Json{{"samples", info.sample_count},
                      {"ids_per_sample", info.ids_per_sample},
                      {"vocab_size", info.vocab_size},
                      {"tokenizer_hash", info.tokenizer_hash}}
                     .dump()
              << "\n";
  } else {
    std::cout << path.string() << ": " << info.sample_count << " samples of " << info.ids_per_sample << " ids, vocabulary "
              << info.vocab_size << ", hash verified\n";
  }
  return 0;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

int run(const Arguments& arguments) {
  const fs::path path = arguments.text("path");
  const bool json = arguments.has("json");
  if (path.extension() == ".tokens") return inspect_shard(path, json);
  if (!fs::exists(path)) throw DataError(concat(path.string(), " does not exist"));
  const auto tensors = open_tensors(path);
  Json list = Json::array();
  std::uint64_t bytes = 0;
  for (const auto& name : tensors.names()) {
    const auto& view = tensors.at(name);
    bytes += view.bytes.size();
    const std::string hash = hash128_hex(view.bytes);
    if (json)
      list.push_back({{"name", name}, {"shape", view.shape}, {"dtype", formats::to_string(view.dtype)}, {"xxh3", hash}});
    else
      std::cout << hash << "  " << formats::to_string(view.dtype) << "  " << name << " " << shape_text(view.shape) << "\n";
  }
  if (json) {
    std::cout << list.dump(1) << "\n";
    return 0;
  }
  std::cout << tensors.names().size() << " tensors, " << format_bytes(bytes) << "\n";
  if (tensors.checkpoint) std::cout << "checkpoint of step " << tensors.checkpoint->manifest().step << ", valid\n";
  return 0;
}

}  // namespace

Verb inspect_verb() {
  return {"inspect",
          "list the tensors of a model, checkpoint or file, with hashes",
          "Name, shape, dtype and XXH3-128 of every tensor of a checkpoint (a run directory: its newest valid one), a model folder or "
          "one safetensors file; or the header of a *.tokens shard. Equal hashes mean equal bits.",
          "path",
          {{"path", "PATH", "what to look at", "", true, false}, {"json", "", "print JSON", "", false, false}},
          {"fbi-llm inspect runs/a", "fbi-llm inspect --json export/a-hf", "fbi-llm inspect data/stories/train-00000.tokens"},
          run};
}

}  // namespace fbi::cli
