#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fbi/core/file.h"
#include "fbi/formats/tensor_view.h"

namespace fbi::formats {

/// Reads one .safetensors file through a mapping. The header is validated completely before any
/// tensor is handed out: sizes against the file, no overlap, no holes, no duplicate names, no
/// overflow. Throws DataError naming file and tensor.
class SafetensorsFile final : public TensorFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  const std::vector<TensorView>& tensors() const override { return tensors_; }  ///< in file order
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  MappedFile file_;
  std::vector<TensorView> tensors_;
};

/// A safetensors file, or, by its ending .bin, .pt or .pth, a TorchFile.
std::unique_ptr<TensorFile> open_tensor_file(const std::filesystem::path& path);

/// All tensors of a model folder: of `model.safetensors`, else the shards that
/// `model.safetensors.index.json` names, else `pytorch_model.bin`, else the shards that
/// `pytorch_model.bin.index.json` names. Duplicate or missing tensors, shards outside the folder
/// and index entries that do not match are DataErrors. (A folder `snapshots/X` of a Hugging Face
/// cache may link into the `blobs` beside `snapshots`.)
class TensorFolder {
 public:
  explicit TensorFolder(const std::filesystem::path& directory);
  const TensorView* find(const std::string& name) const;
  /// DataError with the nearest existing name when absent.
  const TensorView& at(const std::string& name) const;
  std::vector<std::string> names() const;  ///< sorted
  const std::filesystem::path& path() const { return directory_; }

 private:
  const TensorFile& open(const std::filesystem::path& path);
  void open_shards(const std::filesystem::path& index);

  std::filesystem::path directory_;
  std::vector<std::unique_ptr<TensorFile>> files_;
  std::map<std::string, const TensorView*> by_name_;
};

struct WrittenFile {
  std::uint64_t bytes = 0;
  std::string xxh3_128;  ///< of the whole file
};

/// Streaming writer for tensors that don't fit into memory together. `layout` gives name, dtype and
/// shape of each tensor in file order (its bytes are ignored); `write` then takes their bytes one
/// after the other, cut anywhere. `finish` commits the file durably (DurableFile) and throws
/// UsageError unless exactly all bytes came; without it nothing remains. The metadata are
/// {"format": "pt"}, the header is padded with spaces to a multiple of 8. Throws DiskError;
/// UsageError on duplicate names.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, std::span<const TensorView> layout);
  ~SafetensorsWriter();
  void write(std::span<const std::byte> bytes);
  WrittenFile finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Streams a model into `model.safetensors`, or, above max_shard_bytes, into
/// `model-00001-of-0000N.safetensors` with the index file: one tensor in memory at a time. `layout`
/// gives name, dtype and shape in the order in which `write` then receives the tensors, each as a
/// whole. UsageError when the folder already holds model files other than those it would replace.
class TensorFolderWriter {
 public:
  TensorFolderWriter(const std::filesystem::path& directory, std::vector<TensorView> layout,
                     std::uint64_t max_shard_bytes = 5'000'000'000);
  ~TensorFolderWriter();
  std::uint64_t tensor_bytes() const;  ///< of the whole layout
  void write(std::span<const std::byte> tensor);
  /// Commits the last file and writes the index; UsageError when tensors are missing.
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fbi::formats
