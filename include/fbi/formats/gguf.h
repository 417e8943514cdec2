#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "fbi/core/file.h"
#include "fbi/formats/safetensors.h"

/// GGUF, version 3: the file format of llama.cpp.
namespace fbi::formats {

using GgufValue = std::variant<std::uint32_t, float, bool, std::string, std::vector<std::int32_t>, std::vector<float>,
                               std::vector<std::string>>;
/// Keys and values in file order.
using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;

/// Streams tensors of dtype F32 and F16 into a GGUF file. `layout` gives name, dtype and shape in the order in which `write` then
/// receives the tensors, each as a whole. Shapes are row-major as everywhere here; the file's own order of extents is the reverse. Without
/// `finish` nothing remains. Throws DiskError; UsageError on bytes that do not fit the layout.
class GgufWriter {
 public:
  GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata, std::vector<TensorView> layout);
  ~GgufWriter();
  void write(std::span<const std::byte> tensor);
  WrittenFile finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Reads what GgufWriter writes, through a mapping. DataError naming the file: not GGUF version 3, cut short, a type of value or tensor
/// other than those above, tensors that overlap or lie outside.
class GgufFile {
 public:
  explicit GgufFile(const std::filesystem::path& path);
  const std::map<std::string, GgufValue>& metadata() const { return metadata_; }
  const std::vector<TensorView>& tensors() const { return tensors_; }  ///< in file order
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  MappedFile file_;
  std::map<std::string, GgufValue> metadata_;
  std::vector<TensorView> tensors_;
};

}  // namespace fbi::formats
