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

using GgufValue = std::variant<std::uint32_t, float, bool, std::string, std::vector<std::int32_t>,
                               std::vector<float>, std::vector<std::string>>;
/// Keys and values in file order.
using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;

/// Q1_0: a row consists of blocks of 128 weights, each an fp16 scale d and then 128 bits, least
/// significant first, 1 = +d, 0 = -d.
enum class GgufType : std::uint32_t { kF32 = 0, kF16 = 1, kQ1_0 = 41 };
inline constexpr std::int64_t kQ1BlockWeights = 128;
inline constexpr std::int64_t kQ1BlockBytes = 18;

/// "F32", "F16" or "Q1_0".
std::string to_string(GgufType type);
/// UsageError unless F32 or F16.
GgufType gguf_type(DType dtype);
/// Of a row of `columns` values; UsageError when a row of Q1_0 is no whole number of blocks.
std::int64_t row_bytes(GgufType type, std::int64_t columns);

/// As TensorView: row-major, in memory that someone else owns.
struct GgufTensor {
  std::string name;
  GgufType type = GgufType::kF32;
  std::vector<std::int64_t> shape;  ///< at least one extent; all are positive
  std::span<const std::byte> bytes;
  std::int64_t numel() const;
};
/// All values as fp32; out.size() == numel (UsageError otherwise).
void to_float(const GgufTensor& tensor, std::span<float> out);

/// Streams tensors into a GGUF file. `layout` gives name, type and shape in the order in which
/// `write` then receives the tensors, each as a whole. Shapes are row-major as everywhere here; the
/// file's own order of extents is the reverse. Without `finish` nothing remains. Throws DiskError;
/// UsageError on bytes that do not fit the layout.
class GgufWriter {
 public:
  GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata,
             std::vector<GgufTensor> layout);
  ~GgufWriter();
  void write(std::span<const std::byte> tensor);
  WrittenFile finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Reads what GgufWriter writes, through a mapping. DataError naming the file: not GGUF version 3,
/// cut short, a type of value or tensor other than those above, tensors that overlap or lie
/// outside.
class GgufFile {
 public:
  explicit GgufFile(const std::filesystem::path& path);
  const std::map<std::string, GgufValue>& metadata() const { return metadata_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }  ///< in file order
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  MappedFile file_;
  std::map<std::string, GgufValue> metadata_;
  std::vector<GgufTensor> tensors_;
};

}  // namespace fbi::formats
