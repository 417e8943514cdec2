#include <algorithm>
#include <cstdio>
#include <set>

#include "fbi/core/error.h"
#include "fbi/core/text_distance.h"
#include "fbi/formats/safetensors.h"
#include "formats/strict_json.h"

namespace fbi::formats {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

// The folder whose files links may lead to. In the cache of the Hugging Face hub,
// `snapshots/REVISION` holds links to `blobs` beside `snapshots`.
fs::path outermost_folder(const fs::path& directory) {
  const fs::path folder = fs::canonical(directory);
  return folder.parent_path().filename() == "snapshots" ? folder.parent_path().parent_path()
                                                        : folder;
}

bool is_below(const fs::path& path, const fs::path& folder) {
  return std::mismatch(folder.begin(), folder.end(), path.begin(), path.end()).first ==
         folder.end();
}

// The path of a shard that an index names; the index is not trusted to stay in its folder.
fs::path shard_path(const fs::path& directory, const std::string& file) {
  const fs::path index = directory / kIndexFile, relative(file);
  const bool climbs = std::find(relative.begin(), relative.end(), "..") != relative.end();
  if (file.empty() || file.find('\0') != std::string::npos || relative.is_absolute() || climbs) {
    throw DataError(
        concat(index.string(), ": shard ", printable(file), " lies outside the folder"));
  }
  const fs::path path = directory / relative;
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  if (error) {
    throw DataError(concat(index.string(), " names ", path.string(), ": ", error.message()));
  }
  if (!is_below(real, outermost_folder(directory))) {
    throw DataError(concat(index.string(), ": shard ", printable(file),
                           " is a link out of the folder, to ", real.string(),
                           "; put the file itself there"));
  }
  return path;
}

// Tensor name to file name.
std::map<std::string, std::string> read_weight_map(const fs::path& index) {
  const json root = parse_strict_json(read_file(index), index.string());
  if (!root.is_object() || !root.contains("weight_map") || !root["weight_map"].is_object()) {
    throw DataError(concat(index.string(), ": expected an object with an object weight_map"));
  }
  std::map<std::string, std::string> result;
  for (const auto& [name, file] : root["weight_map"].items()) {
    if (!file.is_string()) {
      throw DataError(
          concat(index.string(), ": weight_map: expected a file name for ", printable(name)));
    }
    result.emplace(name, file.get<std::string>());
  }
  return result;
}

}  // namespace

TensorFolder::TensorFolder(const fs::path& directory) : directory_(directory) {
  const auto open = [this](const fs::path& path) -> const SafetensorsFile& {
    files_.push_back(std::make_unique<SafetensorsFile>(path));
    for (const auto& tensor : files_.back()->tensors()) {
      if (!by_name_.emplace(tensor.name, &tensor).second) {
        throw DataError(concat(path.string(), ": tensor ", printable(tensor.name),
                               " is in another file of the folder too"));
      }
    }
    return *files_.back();
  };
  std::error_code ignored;
  if (fs::exists(directory / kSingleFile, ignored)) {
    open(directory / kSingleFile);
    return;
  }
  const fs::path index = directory / kIndexFile;
  if (!fs::exists(index, ignored)) {
    throw DataError(
        concat("expected ", kSingleFile, " or ", kIndexFile, " in ", directory.string()));
  }
  const auto weight_map = read_weight_map(index);
  std::set<std::string> shards;
  for (const auto& [name, file] : weight_map) shards.insert(file);
  for (const auto& shard : shards) {
    for (const auto& tensor : open(shard_path(directory, shard)).tensors()) {
      const auto entry = weight_map.find(tensor.name);
      if (entry == weight_map.end() || entry->second != shard) {
        throw DataError(concat(index.string(), ": tensor ", printable(tensor.name),
                               ": expected in ",
                               entry == weight_map.end() ? "no file" : printable(entry->second),
                               ", found in ", printable(shard)));
      }
    }
  }
  for (const auto& [name, file] : weight_map) {
    if (!find(name)) {
      throw DataError(
          concat(index.string(), ": tensor ", printable(name), " is not in ", printable(file)));
    }
  }
}

const TensorView* TensorFolder::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

const TensorView& TensorFolder::at(const std::string& name) const {
  if (const TensorView* tensor = find(name)) return *tensor;
  const std::string closest = nearest(name, names());
  throw DataError(
      concat(directory_.string(), " has no tensor ", printable(name),
             closest.empty() ? "" : concat("; the nearest name is ", printable(closest))));
}

std::vector<std::string> TensorFolder::names() const {
  std::vector<std::string> result;
  for (const auto& [name, tensor] : by_name_) result.push_back(name);
  return result;
}

namespace {

// Runs of consecutive tensors; one that is larger than max_shard_bytes stands alone.
std::vector<std::span<const TensorView>> cut_into_shards(std::span<const TensorView> tensors,
                                                         std::uint64_t max_shard_bytes) {
  std::vector<std::span<const TensorView>> shards;
  std::size_t first = 0;
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (i > first && tensors[i].bytes.size() > max_shard_bytes - std::min(bytes, max_shard_bytes)) {
      shards.push_back(tensors.subspan(first, i - first));
      first = i;
      bytes = 0;
    }
    bytes += tensors[i].bytes.size();
  }
  shards.push_back(tensors.subspan(first));
  return shards;
}

std::vector<std::string> shard_names(std::size_t count) {
  if (count == 1) return {kSingleFile};
  std::vector<std::string> names;
  for (std::size_t i = 1; i <= count; ++i) {
    char name[64];
    std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i, count);
    names.emplace_back(name);
  }
  return names;
}

// Left-over files of another cut would be read together with, or instead of, the new ones.
void refuse_other_model_files(const fs::path& directory, const std::vector<std::string>& own) {
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    const bool model_file = name == kIndexFile
                                ? own.size() == 1
                                : name.starts_with("model") && name.ends_with(".safetensors");
    if (model_file && std::find(own.begin(), own.end(), name) == own.end()) {
      throw UsageError(concat(directory.string(), " already holds ", name,
                              " of another model; choose an empty folder"));
    }
  }
}

}  // namespace

void write_tensor_folder(const fs::path& directory, std::span<const TensorView> tensors,
                         std::uint64_t max_shard_bytes) {
  const auto shards = cut_into_shards(tensors, max_shard_bytes);
  const auto files = shard_names(shards.size());
  try {
    fs::create_directories(directory);
    refuse_other_model_files(directory, files);
  } catch (const fs::filesystem_error& error) {
    throw DiskError(concat("cannot use folder ", directory.string(), ": ", error.code().message()));
  }
  std::uint64_t total_bytes = 0;
  json weight_map = json::object();
  for (std::size_t i = 0; i < shards.size(); ++i) {
    for (const auto& tensor : shards[i]) {
      if (!weight_map.emplace(tensor.name, files[i]).second) {
        throw UsageError(
            concat(directory.string(), ": tensor name ", printable(tensor.name), " occurs twice"));
      }
      total_bytes += tensor.bytes.size();
    }
    write_safetensors(directory / files[i], shards[i]);
  }
  if (files.size() == 1) return;
  const json index{{"metadata", {{"total_size", total_bytes}}}, {"weight_map", weight_map}};
  write_file(directory / kIndexFile, index.dump(2) + "\n");
}

}  // namespace fbi::formats
