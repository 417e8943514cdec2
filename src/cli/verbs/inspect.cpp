#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/verbs.h"
#include "fbi/core/error.h"
#include "fbi/core/hash.h"
#include "fbi/core/human.h"
#include "fbi/formats/sharded_tensors.h"
#include "fbi/formats/token_shard.h"

namespace fbi::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// What is printed of a tensor.
struct Line {
  std::string name;
  std::vector<std::int64_t> shape;
  formats::DType dtype;
  std::uint64_t bytes;
  std::string hash;
};

Line line_of(const formats::TensorView& view) {
  return {view.name, view.shape, view.dtype, view.bytes.size(), hash128_hex(view.bytes)};
}

std::vector<Line> checkpoint_lines(const formats::CheckpointReader& checkpoint) {
  const formats::ShardedTensors tensors(checkpoint);
  std::vector<Line> lines;
  for (const auto& name : tensors.names()) {
    const formats::ShardedTensor& tensor = tensors.at(name);
    const auto bytes = static_cast<std::uint64_t>(tensor.rows()) * tensor.row_bytes();
    lines.push_back({name, tensor.shape, tensor.dtype, bytes, tensor.hash128_hex()});
  }
  return lines;
}

std::vector<Line> folder_lines(const fs::path& path) {
  const formats::TensorFolder folder(path);
  std::vector<Line> lines;
  for (const auto& name : folder.names()) lines.push_back(line_of(folder.at(name)));
  return lines;
}

std::vector<Line> file_lines(const fs::path& path) {
  const auto file = formats::open_tensor_file(path);
  std::vector<Line> lines;
  for (const auto& view : file->tensors()) lines.push_back(line_of(view));
  return lines;
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
    std::cout << path.string() << ": " << info.sample_count << " samples of " << info.ids_per_sample
              << " ids, vocabulary " << info.vocab_size << ", hash verified\n";
  }
  return 0;
}

int run_inspect(const Arguments& arguments) {
  const fs::path path = arguments.text("path");
  const bool json = arguments.has("json");
  if (path.extension() == ".tokens") return inspect_shard(path, json);
  if (!fs::exists(path)) throw DataError(concat(path.string(), " does not exist"));
  const auto checkpoint = formats::open_checkpoint_of(path);
  const auto lines = checkpoint                  ? checkpoint_lines(*checkpoint)
                     : fs::is_regular_file(path) ? file_lines(path)
                                                 : folder_lines(path);
  Json list = Json::array();
  std::uint64_t bytes = 0;
  for (const Line& line : lines) {
    bytes += line.bytes;
    const std::string dtype = formats::to_string(line.dtype);
    if (json)
      list.push_back(
          {{"name", line.name}, {"shape", line.shape}, {"dtype", dtype}, {"xxh3", line.hash}});
    else
      std::cout << line.hash << "  " << dtype << "  " << line.name << " "
                << formats::shape_text(line.shape) << "\n";
  }
  if (json) {
    std::cout << list.dump(1) << "\n";
    return 0;
  }
  std::cout << lines.size() << " tensors, " << format_bytes(bytes) << "\n";
  if (checkpoint) std::cout << "checkpoint of step " << checkpoint->manifest().step << ", valid\n";
  return 0;
}

}  // namespace

Verb inspect_verb() {
  return {"inspect",
          "list the tensors of a model, checkpoint or file, with hashes",
          "Prints name, shape, dtype and XXH3-128 of every tensor of a checkpoint (a run "
          "directory: its newest valid one), a model folder or "
          "one file of safetensors or torch.save; or the header of a *.tokens shard. Equal hashes "
          "mean equal bits.",
          "path",
          {{"path", "PATH", "what to look at", "", true}, {"json", "", "print JSON"}},
          {"fbi-llm inspect runs/a", "fbi-llm inspect --json export/a-hf",
           "fbi-llm inspect data/stories/train-00000.tokens"},
          run_inspect};
}

}  // namespace fbi::cli
