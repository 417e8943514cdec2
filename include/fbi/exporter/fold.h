#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "fbi/formats/safetensors.h"
#include "fbi/kernels/binary_matrix.h"

/// Dense weights from binarized ones.
namespace fbi::exporter {

/// F16: fp16( fp16(beta) ± fp16(alpha) ), the weights of the published evaluation, which casts
/// before it multiplies. F32: beta ± alpha. BF16: that rounded once, the weights of bf16 training.
/// + where latent >= 0.
struct Folding {
  formats::DType dtype = formats::DType::kF16;
  /// F16 only: fp16(beta) alone where |latent| <= 2^-25, because the published evaluation casts
  /// latent weights too and the sign of 0 is 0 there.
  bool published_fp16_zeros = false;
};

/// "fp16", "bf16" or "fp32"; UsageError otherwise.
formats::DType dtype_from_name(std::string_view name);
/// The name that Hugging Face configurations use: "float16", "bfloat16", "float32".
std::string_view torch_dtype_name(formats::DType dtype);
/// UsageError when the dtype is none of the three or the options contradict each other.
void validate(const Folding& folding);

/// fp32 parts of a binarized matrix; scale and shift hold strides.count(rows, columns) values.
struct BinarizedMatrix {
  kernels::MatrixShape shape;
  kernels::ScaleStrides strides;
  std::span<const float> latent;  ///< [rows, columns]
  std::span<const float> scale;   ///< alpha
  std::span<const float> shift;   ///< beta
};

struct ZeroCounts {
  std::int64_t exact = 0;  ///< latent weights that are 0 (a bit takes them as +1)
  std::int64_t fp16 = 0;   ///< those that fp16 makes 0: |latent| <= 2^-25, exact ones included

  ZeroCounts& operator+=(const ZeroCounts& other) {
    exact += other.exact;
    fp16 += other.fp16;
    return *this;
  }
};

ZeroCounts count_zeros(std::span<const float> latent);

/// Writes the dense matrix [rows, columns] in folding.dtype; all values are finite and fit it.
ZeroCounts fold(const BinarizedMatrix& matrix, const Folding& folding, std::span<std::byte> out);

/// Writes values in `dtype`, rounded to nearest even.
void cast(std::span<const float> values, formats::DType dtype, std::span<std::byte> out);

/// From this magnitude on a finite fp32 value becomes infinite in `dtype`.
float overflow_limit(formats::DType dtype);

}  // namespace fbi::exporter
