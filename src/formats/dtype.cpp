#include <bit>
#include <cstring>

#include "fbi/core/error.h"
#include "fbi/formats/safetensors.h"
#include "formats/strict_json.h"

namespace fbi::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "files are read through mappings");

struct DTypeFacts {
  DType dtype;
  const char* name;
  std::int64_t bytes;
};

constexpr DTypeFacts kDTypes[] = {
    {DType::kF64, "F64", 8},   {DType::kF32, "F32", 4}, {DType::kF16, "F16", 2},
    {DType::kBF16, "BF16", 2}, {DType::kI64, "I64", 8}, {DType::kI32, "I32", 4},
    {DType::kI16, "I16", 2},   {DType::kI8, "I8", 1},   {DType::kU8, "U8", 1},
    {DType::kBool, "BOOL", 1},
};

const DTypeFacts& facts_of(DType dtype) {
  for (const auto& facts : kDTypes) {
    if (facts.dtype == dtype) return facts;
  }
  throw UsageError(concat("no such DType: ", static_cast<int>(dtype)));
}

// out[i] = convert(element i), for elements that may lie unaligned.
template <class Element, class Convert>
void convert_all(std::span<const std::byte> bytes, std::span<float> out, Convert convert) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    Element element;
    std::memcpy(&element, bytes.data() + i * sizeof element, sizeof element);
    out[i] = convert(element);
  }
}

}  // namespace

std::int64_t size_of(DType dtype) {
  return facts_of(dtype).bytes;
}

std::string to_string(DType dtype) {
  return facts_of(dtype).name;
}

std::optional<DType> dtype_from_string(std::string_view text) {
  for (const auto& facts : kDTypes) {
    if (facts.name == text) return facts.dtype;
  }
  return std::nullopt;
}

std::string shape_text(std::span<const std::int64_t> shape) {
  return concat("[", join(shape), "]");
}

std::int64_t TensorView::numel() const {
  std::int64_t product = 1;
  for (const std::int64_t extent : shape) product *= extent;
  return product;
}

void to_float(const TensorView& tensor, std::span<float> out) {
  const auto expected_bytes = static_cast<std::size_t>(size_of(tensor.dtype)) * out.size();
  if (tensor.bytes.size() != expected_bytes) {
    throw UsageError(concat("to_float of ", printable(tensor.name), ": expected room for ",
                            tensor.numel(), " values, found ", out.size()));
  }
  switch (tensor.dtype) {
    case DType::kF64:
      return convert_all<double>(tensor.bytes, out, [](double x) { return static_cast<float>(x); });
    case DType::kF32:
      if (!out.empty()) std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
      return;
    case DType::kF16:
      return convert_all<std::uint16_t>(tensor.bytes, out, half_to_float);
    case DType::kBF16:
      return convert_all<std::uint16_t>(tensor.bytes, out, bfloat16_to_float);
    default:
      throw DataError(concat("tensor ", printable(tensor.name),
                             ": expected a floating point dtype (F64, F32, F16, BF16), found ",
                             to_string(tensor.dtype)));
  }
}

std::uint16_t float_to_half(float value) {
  constexpr std::uint32_t kInfinity = 0x7f800000u;
  constexpr std::uint32_t kHalfOverflow = 0x477ff000u;    // 65520: halfway between 65504 and 2^16
  constexpr std::uint32_t kSmallestNormal = 0x38800000u;  // 2^-14
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > kInfinity) {  // NaN: its upper bits stay, unless only an infinity would be left
    const std::uint32_t fraction = magnitude >> 13 & 0x3ffu;
    return static_cast<std::uint16_t>(sign | 0x7c00u | (fraction != 0 ? fraction : 0x200u));
  }
  if (magnitude >= kHalfOverflow) return static_cast<std::uint16_t>(sign | 0x7c00u);
  if (magnitude < kSmallestNormal) {
    // At 0.5 the last place of a float is 2^-24, the smallest half: the processor's own addition
    // rounds to nearest even.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(
        sign | (std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(0.5f)));
  }
  // Rebias the exponent from 127 to 15 and round to nearest even; a carry moves into the exponent,
  // as it should.
  const std::uint32_t odd = magnitude >> 13 & 1u;
  return static_cast<std::uint16_t>(sign | ((magnitude - (112u << 23) + 0xfffu + odd) >> 13));
}

float half_to_float(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const std::uint32_t exponent = bits >> 10 & 31u, fraction = bits & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: fraction * 2^-24, exact in a float
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
  }
  const std::uint32_t rebiased = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | rebiased << 23 | fraction << 13);
}

std::uint16_t float_to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {  // NaN, as in float_to_half
    return static_cast<std::uint16_t>(bits >> 16 | ((bits >> 16 & 0x7fu) != 0 ? 0u : 0x40u));
  }
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

float bfloat16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

}  // namespace fbi::formats
