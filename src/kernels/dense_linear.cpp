#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "fbi/kernels/gemv.h"
#include "kernels/blocks.h"
#include "kernels/gemv_kernels.h"

namespace fbi::kernels {
namespace {

std::int64_t padded(std::int64_t columns) {
  return (columns + kPadding - 1) / kPadding * kPadding;
}

std::int64_t element_bytes(Storage storage) {
  return storage == Storage::kFp32 ? 4 : storage == Storage::kFp16 ? 2 : 1;
}

/// The x of DenseProduct::group.
void pack_group(const float* x, std::int64_t x_stride, std::int64_t columns, std::int64_t tokens,
                float* out) {
  const std::int64_t pieces = columns / kPadding, whole = pieces / kDenseChains * kDenseChains;
  const auto pack = [&](std::int64_t piece) {
    for (std::int64_t t = 0; t < tokens; ++t, out += kPadding) {
      std::copy_n(x + t * x_stride + piece * kPadding, kPadding, out);
    }
  };
  for (std::int64_t chain = 0; chain < kDenseChains; ++chain) {
    for (std::int64_t piece = chain; piece < whole; piece += kDenseChains) pack(piece);
    for (std::int64_t piece = whole; chain == 0 && piece < pieces; ++piece) pack(piece);
  }
}

/// Rounds x to whole numbers, kPadding of them every `apart`; returns what 1 of them is worth: NaN
/// when a value is not finite. Less than 1e-30 counts as 0.
float round_inputs(const float* x, std::int64_t columns, std::int64_t apart, std::int16_t* q) {
  float largest[kPadding] = {}, poison[kPadding] = {};
  for (std::int64_t i = 0; i < columns; i += kPadding) {
    for (std::int64_t k = 0; k < kPadding; ++k) {
      const float magnitude = std::abs(x[i + k]);
      largest[k] = magnitude > largest[k] ? magnitude : largest[k];
      poison[k] += 0 * magnitude;
    }
  }
  float most = 0, nothing = 0;
  for (std::int64_t k = 0; k < kPadding; ++k) {
    most = std::max(most, largest[k]);
    nothing += poison[k];
  }
  constexpr float kMost = kMostInt8Input;
  const float inverse = most > 1e-30f ? kMost / most : 0;
  for (std::int64_t i = 0; i < columns; i += kPadding, q += apart) {
    // Added to 1.5 · 2^23 a number is rounded to a whole one, which the lowest bits then hold.
    for (std::int64_t k = 0; k < kPadding; ++k)
      q[k] = static_cast<std::int16_t>(std::bit_cast<std::int32_t>(x[i + k] * inverse + 0x1.8p23f));
  }
  return most / kMost + nothing;
}

/// Memory of this thread for at least so many bytes; what it held is lost when it grows.
template <class Value>
Value* scratch(std::int64_t count) {
  thread_local AlignedMemory memory;
  const auto bytes = static_cast<std::size_t>(count) * sizeof(Value);
  if (memory.size() < bytes) memory = AlignedMemory(bytes);
  return memory.as<Value>();
}

/// Several tokens pass by rows that stay in cache: calls part(first row, rows).
template <class Part>
void for_tiles(std::int64_t begin, std::int64_t end, std::int64_t tokens, const Part& part) {
  const std::int64_t tile = tokens == 1 ? end - begin : 32;
  for (std::int64_t first = begin; first < end; first += tile)
    part(first, std::min(tile, end - first));
}

}  // namespace

DenseLinear::DenseLinear(MatrixShape shape, Storage storage)
    : kernels_(&gemv_kernels()),
      shape_(shape),
      storage_(storage),
      padded_columns_(padded(shape.columns)),
      row_stride_bytes_(padded_columns_ * element_bytes(storage)),
      values_(static_cast<std::size_t>(shape.rows * row_stride_bytes_)) {
  if (storage == Storage::kInt8) row_scale_.resize(static_cast<std::size_t>(shape.rows));
}

std::size_t DenseLinear::weight_bytes() const {
  return values_.size() + row_scale_.size() * sizeof(float);
}

void DenseLinear::set_row(std::int64_t row, std::span<const float> values) {
  std::byte* out = values_.data() + row * row_stride_bytes_;
  if (storage_ == Storage::kFp32) {
    std::memcpy(out, values.data(), values.size_bytes());
  } else if (storage_ == Storage::kFp16) {
    gemv_kernels().to_half(values.data(), std::ssize(values),
                           reinterpret_cast<std::uint16_t*>(out));
  } else {
    float largest = 0;
    for (const float v : values) largest = std::max(largest, std::abs(v));
    const float inverse = largest > 0 ? 127 / largest : 0;
    auto* bytes = reinterpret_cast<std::int8_t*>(out);
    for (std::size_t i = 0; i < values.size(); ++i) {
      bytes[i] = static_cast<std::int8_t>(std::lrint(values[i] * inverse));
    }
    row_scale_[row] = largest / 127;
  }
}

void DenseLinear::multiply(std::int64_t begin, std::int64_t end, const float* x,
                           std::int64_t x_stride, std::int64_t tokens, float* y,
                           std::int64_t y_stride) const {
  if (storage_ == Storage::kInt8)
    return multiply_rounded(begin, end, x, x_stride, tokens, y, y_stride);
  const DenseProduct& product = storage_ == Storage::kFp16 ? kernels_->fp16 : kernels_->fp32;
  const std::int64_t group = product.group_tokens, columns = padded_columns_;
  const bool in_groups = product.group && columns > kShortRow;
  const std::int64_t grouped = in_groups ? tokens / group * group : 0;
  float* const packed = scratch<float>(grouped * columns);
  for (std::int64_t t = 0; t < grouped; t += group)
    pack_group(x + t * x_stride, x_stride, columns, group, packed + t * columns);
  for_tiles(begin, end, tokens, [&](std::int64_t first, std::int64_t rows) {
    const std::byte* const w = values_.data() + first * row_stride_bytes_;
    std::int64_t t = 0;
    for (; t < grouped; t += group) {
      product.group(w, row_stride_bytes_, columns, packed + t * columns, rows,
                    y + t * y_stride + first, y_stride);
    }
    for (; t < tokens; ++t)
      product.rows(w, row_stride_bytes_, columns, x + t * x_stride, rows, y + t * y_stride + first);
  });
}

void DenseLinear::round(const float* x, RoundedInput& out) const {
  out.values.resize(static_cast<std::size_t>(padded_columns_));
  out.step = round_inputs(x, padded_columns_, kPadding, out.values.data());
}

void DenseLinear::multiply(std::int64_t begin, std::int64_t end, const RoundedInput& x,
                           float* y) const {
  kernels_->int8_rows.rows(values_.data() + begin * row_stride_bytes_, row_stride_bytes_,
                           padded_columns_, x.values.data(), end - begin, y + begin);
  for (std::int64_t r = begin; r < end; ++r) y[r] = y[r] * x.step * row_scale_[r];
}

void DenseLinear::multiply_rounded(std::int64_t begin, std::int64_t end, const float* x,
                                   std::int64_t x_stride, std::int64_t tokens, float* y,
                                   std::int64_t y_stride) const {
  const Int8Product& product = kernels_->int8_rows;
  const std::int64_t group = product.group_tokens, columns = padded_columns_;
  const std::int64_t grouped = product.group ? tokens / group * group : 0;
  std::int16_t* const q = scratch<std::int16_t>(tokens * columns);
  float* const scales = scratch<float>(tokens);
  for (std::int64_t t = 0; t < tokens; ++t) {
    const bool alone = t >= grouped;
    std::int16_t* const out =
        q + (alone ? t * columns : t / group * group * columns + t % group * kPadding);
    scales[t] = round_inputs(x + t * x_stride, columns, alone ? kPadding : group * kPadding, out);
  }
  for_tiles(begin, end, tokens, [&](std::int64_t first, std::int64_t rows) {
    const std::byte* const w = values_.data() + first * row_stride_bytes_;
    std::int64_t t = 0;
    for (; t < grouped; t += group) {
      product.group(w, row_stride_bytes_, columns, q + t * columns, rows, y + t * y_stride + first,
                    y_stride);
    }
    for (; t < tokens; ++t)
      product.rows(w, row_stride_bytes_, columns, q + t * columns, rows, y + t * y_stride + first);
    for (t = 0; t < tokens; ++t) {
      float* const out = y + t * y_stride;
      for (std::int64_t r = first; r < first + rows; ++r)
        out[r] = out[r] * scales[t] * row_scale_[r];
    }
  });
}

void multiply(const DenseLinear& w, const float* x, std::int64_t tokens, float* y,
              ParallelFor& parallel) {
  const std::int64_t columns = w.shape().columns, padded = w.padded_columns();
  AlignedMemory input(static_cast<std::size_t>(tokens * padded) * sizeof(float));
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::copy_n(x + t * columns, columns, input.as<float>() + t * padded);
  }
  parallel.run(0, w.shape().rows, grain_rows(columns), [&](std::int64_t begin, std::int64_t end) {
    w.multiply(begin, end, input.as<float>(), padded, tokens, y, w.shape().rows);
  });
}

}  // namespace fbi::kernels
