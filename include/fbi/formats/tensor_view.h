#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fbi::formats {

enum class DType { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };
std::int64_t size_of(DType dtype);                              ///< bytes per element
std::string to_string(DType dtype);                             ///< safetensors spelling: "F32"
std::optional<DType> dtype_from_string(std::string_view text);  ///< inverse of to_string
std::string shape_text(std::span<const std::int64_t> shape);    ///< for messages: "[2, 3]"

/// A tensor that lies in memory (row-major, little-endian) and is owned by someone else. In a file
/// nothing aligns `bytes` to the element size: copy with memcpy or to_float, don't cast the
/// pointer.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
  std::int64_t numel() const;
};

/// A file that is open and the tensors in it, which stay where they are as long as it lives.
class TensorFile {
 public:
  virtual ~TensorFile() = default;
  virtual const std::vector<TensorView>& tensors() const = 0;
};

/// Converts numel floating point values to fp32. dtype must be F64, F32, F16 or BF16 (DataError
/// otherwise); out.size() == numel (UsageError otherwise).
void to_float(const TensorView& tensor, std::span<float> out);
/// IEEE 754 binary16, round to nearest even, overflow to infinity.
std::uint16_t float_to_half(float value);
float half_to_float(std::uint16_t bits);
std::uint16_t float_to_bfloat16(float value);  ///< round to nearest even, NaN stays NaN
float bfloat16_to_float(std::uint16_t bits);

}  // namespace fbi::formats
