#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fbi/core/file.h"

namespace fbi::formats {

enum class DType { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };
std::int64_t size_of(DType dtype);                                   ///< bytes per element
std::string to_string(DType dtype);                                  ///< safetensors spelling: "F32"
std::optional<DType> dtype_from_string(std::string_view text);       ///< inverse of to_string

/// A tensor that lies in memory (row-major, little-endian) and is owned by someone else. In a file nothing aligns `bytes`
/// to the element size: copy with memcpy or to_float, don't cast the pointer.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
  std::int64_t numel() const;
};

/// Reads one .safetensors file through a mapping. The header is validated completely before any tensor is handed out:
/// sizes against the file, no overlap, no holes, no duplicate names, no overflow. Throws DataError naming file and tensor.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  const std::vector<TensorView>& tensors() const { return tensors_; }  ///< in file order
  const TensorView* find(const std::string& name) const;                ///< nullptr when absent
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  MappedFile file_;
  std::vector<TensorView> tensors_;
  std::map<std::string, std::size_t> by_name_;
  std::map<std::string, std::string> metadata_;
};

/// All tensors of a model folder: `model.safetensors`, or the shards that `model.safetensors.index.json` names.
/// Duplicate or missing tensors, shards outside the folder and index entries that do not match are DataErrors. (A folder
/// `snapshots/X` of a Hugging Face cache may link into the `blobs` beside `snapshots`.)
class TensorFolder {
 public:
  explicit TensorFolder(const std::filesystem::path& directory);
  const TensorView* find(const std::string& name) const;
  const TensorView& at(const std::string& name) const;  ///< DataError with the nearest existing name when absent
  std::vector<std::string> names() const;               ///< sorted
  const std::filesystem::path& path() const { return directory_; }

 private:
  std::filesystem::path directory_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const TensorView*> by_name_;
};

struct WrittenFile {
  std::uint64_t bytes = 0;
  std::string xxh3_128;  ///< of the whole file
};

/// Streaming writer for tensors that don't fit into memory together. `layout` gives name, dtype and shape of each tensor in file
/// order (its bytes are ignored); `write` then takes their bytes one after the other, cut anywhere. `finish` commits the file
/// durably and throws UsageError unless exactly all bytes came; without it nothing remains. Other rules: write_safetensors.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, std::span<const TensorView> layout,
                    std::map<std::string, std::string> metadata = {});
  ~SafetensorsWriter();
  void write(std::span<const std::byte> bytes);
  WrittenFile finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Writes tensors, in the given order, durably (DurableFile). `metadata` gets {"format": "pt"} added. The header is
/// padded with spaces to a multiple of 8. Throws DiskError; UsageError on duplicate names or bytes that do not fit the shape.
WrittenFile write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors,
                              std::map<std::string, std::string> metadata = {});

/// Writes `model.safetensors`, or, above max_shard_bytes, `model-00001-of-0000N.safetensors` with the index file. UsageError
/// when the folder already holds model files other than those it would replace.
void write_tensor_folder(const std::filesystem::path& directory, std::span<const TensorView> tensors,
                         std::uint64_t max_shard_bytes = 5'000'000'000);

/// Converts numel floating point values to fp32. dtype must be F64, F32, F16 or BF16 (DataError otherwise); out.size() ==
/// numel (UsageError otherwise).
void to_float(const TensorView& tensor, std::span<float> out);
std::uint16_t float_to_half(float value);      ///< IEEE 754 binary16, round to nearest even, overflow to infinity
float half_to_float(std::uint16_t bits);
std::uint16_t float_to_bfloat16(float value);  ///< round to nearest even, NaN stays NaN
float bfloat16_to_float(std::uint16_t bits);

}  // namespace fbi::formats
