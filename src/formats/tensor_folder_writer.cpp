#include <algorithm>
#include <cstdio>
#include <set>
#include <utility>

#include "fbi/core/error.h"
#include "fbi/formats/safetensors.h"
#include "formats/folder_names.h"
#include "formats/strict_json.h"

namespace fbi::formats {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::uint64_t bytes_of(const TensorView& tensor) {
  return static_cast<std::uint64_t>(tensor.numel() * size_of(tensor.dtype));
}

// Positions after each file's last tensor; a tensor that is larger than a whole file stands alone.
std::vector<std::size_t> cut_into_shards(std::span<const TensorView> layout,
                                         std::uint64_t max_shard_bytes) {
  std::vector<std::size_t> ends;
  std::size_t first = 0;
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < layout.size(); ++i) {
    if (i > first && bytes_of(layout[i]) > max_shard_bytes - std::min(bytes, max_shard_bytes)) {
      ends.push_back(i);
      first = i;
      bytes = 0;
    }
    bytes += bytes_of(layout[i]);
  }
  ends.push_back(layout.size());
  return ends;
}

std::vector<std::string> shard_names(std::size_t count) {
  if (count == 1) return {kSafetensorsFile};
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
    const bool model_file = name == kSafetensorsIndex
                                ? own.size() == 1
                                : name.starts_with("model") && name.ends_with(".safetensors");
    if (model_file && std::find(own.begin(), own.end(), name) == own.end()) {
      throw UsageError(concat(directory.string(), " already holds ", name,
                              " of another model; choose an empty folder"));
    }
  }
}

}  // namespace

struct TensorFolderWriter::Impl {
  fs::path directory;
  std::vector<TensorView> layout;
  std::vector<std::size_t> shard_ends;
  std::vector<std::string> files;
  std::uint64_t tensor_bytes = 0;
  std::unique_ptr<SafetensorsWriter> writer;
  std::size_t shard = 0;     // files begun
  std::size_t position = 0;  // tensors written

  void open_next() {
    if (writer) writer->finish();
    const std::size_t begin = shard == 0 ? 0 : shard_ends[shard - 1];
    const auto part = std::span(layout).subspan(begin, shard_ends[shard] - begin);
    writer = std::make_unique<SafetensorsWriter>(directory / files[shard], part);
    ++shard;
  }
  std::string index_text() const {
    json weight_map = json::object();
    for (std::size_t i = 0, file = 0; i < layout.size(); ++i) {
      if (i == shard_ends[file]) ++file;
      weight_map[layout[i].name] = files[file];
    }
    const json index{{"metadata", {{"total_size", tensor_bytes}}}, {"weight_map", weight_map}};
    return index.dump(2) + "\n";
  }
};

TensorFolderWriter::TensorFolderWriter(const fs::path& directory, std::vector<TensorView> layout,
                                       std::uint64_t max_shard_bytes)
    : impl_(std::make_unique<Impl>()) {
  impl_->directory = directory;
  impl_->layout = std::move(layout);
  impl_->shard_ends = cut_into_shards(impl_->layout, max_shard_bytes);
  impl_->files = shard_names(impl_->shard_ends.size());
  try {
    fs::create_directories(directory);
    refuse_other_model_files(directory, impl_->files);
  } catch (const fs::filesystem_error& error) {
    throw DiskError(concat("cannot use folder ", directory.string(), ": ", error.code().message()));
  }
  std::set<std::string_view> names;
  for (const auto& tensor : impl_->layout) {
    impl_->tensor_bytes += bytes_of(tensor);
    if (!names.insert(tensor.name).second) {
      throw UsageError(
          concat(directory.string(), ": tensor name ", printable(tensor.name), " occurs twice"));
    }
  }
}

TensorFolderWriter::~TensorFolderWriter() = default;

std::uint64_t TensorFolderWriter::tensor_bytes() const {
  return impl_->tensor_bytes;
}

void TensorFolderWriter::write(std::span<const std::byte> tensor) {
  const std::string place = impl_->directory.string();
  if (impl_->position >= impl_->layout.size()) {
    throw UsageError(concat(place, ": more tensors written than the ", impl_->layout.size(),
                            " that were laid out"));
  }
  const TensorView& expected = impl_->layout[impl_->position];
  if (bytes_of(expected) != tensor.size()) {
    throw UsageError(concat(place, ": tensor ", printable(expected.name), ": expected ",
                            bytes_of(expected), " bytes for ", to_string(expected.dtype), " ",
                            json(expected.shape).dump(), ", found ", tensor.size()));
  }
  if (!impl_->writer || impl_->position == impl_->shard_ends[impl_->shard - 1]) impl_->open_next();
  impl_->writer->write(tensor);
  ++impl_->position;
}

void TensorFolderWriter::finish() {
  if (impl_->position != impl_->layout.size()) {
    throw UsageError(concat(impl_->directory.string(), ": expected ", impl_->layout.size(),
                            " tensors by the layout, found ", impl_->position));
  }
  if (!impl_->writer) impl_->open_next();  // a model without tensors
  impl_->writer->finish();
  if (impl_->files.size() == 1) return;
  write_file(impl_->directory / kSafetensorsIndex, impl_->index_text());
}

}  // namespace fbi::formats
