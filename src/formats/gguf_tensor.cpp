#include <algorithm>
#include <cstring>

#include "fbi/core/error.h"
#include "fbi/formats/gguf.h"
#include "formats/strict_json.h"

namespace fbi::formats {
namespace {

/// One block of Q1_0.
void decode_block(const std::byte* block, float* out) {
  std::uint16_t scale_bits;
  std::memcpy(&scale_bits, block, sizeof scale_bits);
  const float scale = half_to_float(scale_bits);
  const std::byte* bits = block + sizeof scale_bits;
  for (std::int64_t j = 0; j < kQ1BlockWeights; ++j) {
    const bool plus = std::to_integer<int>(bits[j / 8]) >> j % 8 & 1;
    out[j] = plus ? scale : -scale;
  }
}

}  // namespace

std::string to_string(GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return "F32";
    case GgufType::kF16:
      return "F16";
    case GgufType::kQ1_0:
      return "Q1_0";
  }
  return "type " + std::to_string(static_cast<std::uint32_t>(type));
}

GgufType gguf_type(DType dtype) {
  if (dtype == DType::kF32) return GgufType::kF32;
  if (dtype == DType::kF16) return GgufType::kF16;
  throw UsageError(concat("GGUF: expected F32 or F16, found ", to_string(dtype)));
}

std::int64_t row_bytes(GgufType type, std::int64_t columns) {
  if (type != GgufType::kQ1_0) return columns * (type == GgufType::kF32 ? 4 : 2);
  if (columns % kQ1BlockWeights != 0) {
    throw UsageError(concat("GGUF: rows of Q1_0 have a multiple of ", kQ1BlockWeights,
                            " weights, found ", columns));
  }
  return columns / kQ1BlockWeights * kQ1BlockBytes;
}

std::int64_t GgufTensor::numel() const {
  std::int64_t product = 1;
  for (const std::int64_t extent : shape) product *= extent;
  return product;
}

void to_float(const GgufTensor& tensor, std::span<float> out) {
  if (tensor.type != GgufType::kQ1_0) {
    const DType dtype = tensor.type == GgufType::kF32 ? DType::kF32 : DType::kF16;
    return to_float(TensorView{tensor.name, dtype, tensor.shape, tensor.bytes}, out);
  }
  const auto blocks = static_cast<std::int64_t>(out.size()) / kQ1BlockWeights;
  if (std::ssize(out) != tensor.numel() || std::ssize(tensor.bytes) != blocks * kQ1BlockBytes) {
    throw UsageError(concat("to_float of ", printable(tensor.name), ": expected room for ",
                            tensor.numel(), " values, found ", out.size()));
  }
  for (std::int64_t block = 0; block < blocks; ++block) {
    decode_block(tensor.bytes.data() + block * kQ1BlockBytes, out.data() + block * kQ1BlockWeights);
  }
}

}  // namespace fbi::formats
