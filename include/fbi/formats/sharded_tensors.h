#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fbi/formats/checkpoint_reader.h"

/// The ranks of a training run write the rows that they own. A checkpoint stores a whole tensor
/// under its plain name and rows [begin, end) of a tensor that has R rows as `name@begin:end/R`;
/// the parts of a tensor, from whatever files, cover [0, R) once. The names alone thus tell the
/// whole shape, and any number of ranks can read what any other number wrote.
namespace fbi::formats {

/// Rows [begin, end) of the `total` rows of tensor `name`.
struct PartName {
  std::string name;
  std::int64_t begin = 0, end = 0, total = 0;
};
std::string to_string(const PartName& part);
/// nullopt for the plain name of a whole tensor.
std::optional<PartName> parse_part_name(const std::string& text);

/// A whole tensor, put together from the parts that lie in files. A scalar counts as one row.
struct ShardedTensor {
  struct Part {
    std::int64_t row_begin = 0, row_end = 0;
    const TensorView* view = nullptr;
  };
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::vector<Part> parts;  ///< by row_begin

  std::int64_t rows() const { return shape.empty() ? 1 : shape[0]; }
  std::int64_t numel() const;
  std::uint64_t row_bytes() const;
  /// Copies rows [row_begin, row_end), which exist, to `out`, which has exactly their bytes.
  void copy_rows(std::int64_t row_begin, std::int64_t row_end, std::span<std::byte> out) const;
  /// All values as fp32; see to_float of a TensorView. out.size() == numel().
  void to_float(std::span<float> out) const;
  std::string hash128_hex() const;  ///< XXH3-128 of the whole tensor's bytes
};

/// The tensors of a checkpoint under their own names, whatever number of ranks wrote it.
class ShardedTensors {
 public:
  /// Checks that the parts of every tensor agree in dtype and shape and cover its rows once; throws
  /// CheckpointError naming folder and tensor. `reader` must live longer.
  explicit ShardedTensors(const CheckpointReader& reader);
  const ShardedTensor* find(const std::string& name) const;  ///< nullptr when absent
  /// CheckpointError with the nearest name when absent.
  const ShardedTensor& at(const std::string& name) const;
  std::vector<std::string> names() const;  ///< sorted

 private:
  void add(const TensorView& view);

  std::string folder_;
  std::map<std::string, ShardedTensor> tensors_;
};

}  // namespace fbi::formats
