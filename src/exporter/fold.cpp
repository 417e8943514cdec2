#include "fbi/exporter/fold.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "fbi/core/error.h"

namespace fbi::exporter {
namespace {

using formats::DType;

constexpr float kFp16ZeroLimit =
    0x1p-25f;  // half of the smallest fp16 number: rounds to even, to 0

/// Values that weights can take, one entry per (alpha, beta) pair.
template <class T>
struct FoldedValues {
  std::vector<T> plus, minus, zero;
};

FoldedValues<std::uint16_t> folded_fp16(std::span<const float> scale,
                                        std::span<const float> shift) {
  FoldedValues<std::uint16_t> values;
  for (std::size_t i = 0; i < scale.size(); ++i) {
    const std::uint16_t beta_bits = formats::float_to_half(shift[i]);
    const float beta = formats::half_to_float(beta_bits);
    const float alpha = formats::half_to_float(formats::float_to_half(scale[i]));
    // fp32 has more than twice the digits of fp16, so rounding the sum twice equals rounding it
    // once.
    values.plus.push_back(formats::float_to_half(beta + alpha));
    values.minus.push_back(formats::float_to_half(beta - alpha));
    values.zero.push_back(beta_bits);
  }
  return values;
}

template <class T, class Round>
FoldedValues<T> folded_once(std::span<const float> scale, std::span<const float> shift,
                            Round round) {
  FoldedValues<T> values;
  for (std::size_t i = 0; i < scale.size(); ++i) {
    values.plus.push_back(round(shift[i] + scale[i]));
    values.minus.push_back(round(shift[i] - scale[i]));
    values.zero.push_back(round(shift[i]));
  }
  return values;
}

template <class T>
void fold_with(const BinarizedMatrix& matrix, const FoldedValues<T>& values, bool zeros,
               std::span<std::byte> out) {
  const float zero_limit = zeros ? kFp16ZeroLimit : -1.0f;
  const auto [rows, columns] = matrix.shape;
  std::vector<T> row(static_cast<std::size_t>(columns));
  for (std::int64_t o = 0; o < rows; ++o) {
    const float* latent = matrix.latent.data() + o * columns;
    for (std::int64_t i = 0; i < columns; ++i) {
      const std::int64_t k = o * matrix.strides.row + i * matrix.strides.column;
      const T weight = latent[i] >= 0 ? values.plus[k] : values.minus[k];
      row[i] = std::abs(latent[i]) <= zero_limit ? values.zero[k] : weight;
    }
    std::memcpy(out.data() + o * columns * sizeof(T), row.data(), columns * sizeof(T));
  }
}

template <class Round>
void cast_with(std::span<const float> values, std::byte* out, Round round) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t bits = round(values[i]);
    std::memcpy(out + i * sizeof bits, &bits, sizeof bits);
  }
}

}  // namespace

DType dtype_from_name(std::string_view name) {
  if (name == "fp16") return DType::kF16;
  if (name == "bf16") return DType::kBF16;
  if (name == "fp32") return DType::kF32;
  throw UsageError(concat("dtype '", name, "' is unknown; choose fp16, bf16 or fp32"));
}

std::string_view torch_dtype_name(DType dtype) {
  return dtype == DType::kF16 ? "float16" : dtype == DType::kBF16 ? "bfloat16" : "float32";
}

void validate(const Folding& folding) {
  if (folding.dtype != DType::kF16 && folding.dtype != DType::kBF16 &&
      folding.dtype != DType::kF32) {
    throw UsageError(
        concat("an export is F16, BF16 or F32, found ", formats::to_string(folding.dtype)));
  }
  if (folding.published_fp16_zeros && folding.dtype != DType::kF16) {
    throw UsageError(concat("published_fp16_zeros is about fp16 weights, but the export is ",
                            formats::to_string(folding.dtype), "; use dtype fp16 or leave it out"));
  }
}

ZeroCounts count_zeros(std::span<const float> latent) {
  ZeroCounts zeros;
  for (const float w : latent) {
    zeros.exact += w == 0;
    zeros.fp16 += std::abs(w) <= kFp16ZeroLimit;
  }
  return zeros;
}

ZeroCounts fold(const BinarizedMatrix& matrix, const Folding& folding, std::span<std::byte> out) {
  const auto as_is = [](float value) { return value; };
  switch (folding.dtype) {
    case DType::kF16:
      fold_with(matrix, folded_fp16(matrix.scale, matrix.shift), folding.published_fp16_zeros, out);
      break;
    case DType::kBF16:
      fold_with(matrix,
                folded_once<std::uint16_t>(matrix.scale, matrix.shift, formats::float_to_bfloat16),
                false, out);
      break;
    default:
      fold_with(matrix, folded_once<float>(matrix.scale, matrix.shift, as_is), false, out);
  }
  return count_zeros(matrix.latent);
}

void cast(std::span<const float> values, DType dtype, std::span<std::byte> out) {
  switch (dtype) {
    case DType::kF16:
      return cast_with(values, out.data(), formats::float_to_half);
    case DType::kBF16:
      return cast_with(values, out.data(), formats::float_to_bfloat16);
    default:
      std::memcpy(out.data(), values.data(), values.size_bytes());
  }
}

float overflow_limit(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return 65520.0f;  // half way from the largest, 65504, to 2^16
    case DType::kBF16:
      return 0x1.ffp127f;  // half way from the largest, 0x1.fep127, to 2^128
    default:
      return std::numeric_limits<float>::infinity();
  }
}

}  // namespace fbi::exporter
