#include "checkpoint/dtype.h"

#include <utility>

namespace fbi::checkpoint {
namespace {

using formats::DType;

constexpr std::pair<at::ScalarType, DType> kTypes[] = {
    {at::kDouble, DType::kF64},    {at::kFloat, DType::kF32}, {at::kHalf, DType::kF16},
    {at::kBFloat16, DType::kBF16}, {at::kLong, DType::kI64},  {at::kInt, DType::kI32},
    {at::kShort, DType::kI16},     {at::kChar, DType::kI8},   {at::kByte, DType::kU8},
    {at::kBool, DType::kBool}};

}  // namespace

std::optional<DType> to_file_dtype(at::ScalarType type) {
  for (const auto& [tensor, file] : kTypes) {
    if (tensor == type) return file;
  }
  return std::nullopt;
}

at::ScalarType from_file_dtype(DType dtype) {
  for (const auto& [tensor, file] : kTypes) {
    if (file == dtype) return tensor;
  }
  return at::ScalarType::Undefined;
}

}  // namespace fbi::checkpoint
