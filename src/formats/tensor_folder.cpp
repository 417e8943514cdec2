#include <algorithm>
#include <set>
#include <utility>

#include "fbi/core/error.h"
#include "fbi/core/text_distance.h"
#include "fbi/formats/safetensors.h"
#include "formats/folder_names.h"
#include "formats/strict_json.h"
#include "formats/torch_file.h"

namespace fbi::formats {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

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
fs::path shard_path(const fs::path& index, const std::string& file) {
  const fs::path directory = index.parent_path(), relative(file);
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
  std::error_code ignored;
  for (const auto& [single, index] :
       {std::pair(kSafetensorsFile, kSafetensorsIndex), std::pair(kTorchFile, kTorchIndex)}) {
    if (fs::exists(directory / single, ignored)) {
      open(directory / single);
      return;
    }
    if (fs::exists(directory / index, ignored)) {
      open_shards(directory / index);
      return;
    }
  }
  throw DataError(concat("expected ", kSafetensorsFile, ", ", kTorchFile,
                         " or one of them with .index.json in ", directory.string()));
}

const TensorFile& TensorFolder::open(const fs::path& path) {
  files_.push_back(open_tensor_file(path));
  for (const auto& tensor : files_.back()->tensors()) {
    if (!by_name_.emplace(tensor.name, &tensor).second) {
      throw DataError(concat(path.string(), ": tensor ", printable(tensor.name),
                             " is in another file of the folder too"));
    }
  }
  return *files_.back();
}

void TensorFolder::open_shards(const fs::path& index) {
  const auto weight_map = read_weight_map(index);
  std::set<std::string> shards;
  for (const auto& [name, file] : weight_map) shards.insert(file);
  for (const auto& shard : shards) {
    for (const auto& tensor : open(shard_path(index, shard)).tensors()) {
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

std::unique_ptr<TensorFile> open_tensor_file(const fs::path& path) {
  const fs::path ending = path.extension();
  if (ending == ".bin" || ending == ".pt" || ending == ".pth") {
    return std::make_unique<TorchFile>(path);
  }
  return std::make_unique<SafetensorsFile>(path);
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

}  // namespace fbi::formats
