#include "kernels/blocks.h"
#include "kernels/cuda/matrix.cuh"

namespace fbi::kernels::cuda {
namespace {

constexpr int kPackRows = 16;  // of one block: enough loads to hide what a thread begins with
constexpr int kUnpackRows = 8;

template <bool whole>
__global__ void __launch_bounds__(kMatrixThreads)
    pack_kernel(const float* latent, MatrixShape shape, std::uint8_t* bits) {
  const Part part = part_of<kNibble>(shape, kPackRows);
#pragma unroll 4
  for (std::int64_t o = part.row; o < part.end_row; ++o) {
    float x[kNibble];
    load(x, latent + o * shape.columns + part.column, part.count, whole);
    store_nibble(bits + o * row_bytes(shape.columns), part, nonnegative(x, part.count));
  }
}

/// The two values that an element of a column can take, in their final type.
template <class T>
struct Values {
  T plus, minus;
  __device__ void set(float alpha, float beta) {
    plus = rounded<T>(alpha + beta);
    minus = rounded<T>(-alpha + beta);
  }
};

/// Those of what a thread writes; a dimension is 1 where they do not differ along it.
template <class T, int rows, int columns>
struct Palette {
  Values<T> values[rows][columns];
  __device__ const Values<T>& of(int row, int column) const {
    return values[rows == 1 ? 0 : row][columns == 1 ? 0 : column];
  }
};

/// The row of a part, or its last one where it has fewer.
__device__ inline std::int64_t row_of(const Part& part, int k) {
  return part.row + k < part.end_row ? part.row + k : part.end_row - 1;
}

/// Writes a part's elements as the signs choose. Signs of all rows are on their way before the
/// first row is stored, for the compiler moves no load across a store.
template <bool whole, int size, class T, class Palette>
__device__ inline void write_part(const std::uint8_t* bits, MatrixShape shape, const Part& part,
                                  const Palette& palette, T* out) {
  unsigned signs[kUnpackRows];
#pragma unroll
  for (int k = 0; k < kUnpackRows; ++k) {
    const unsigned byte = bits[row_of(part, k) * row_bytes(shape.columns) + part.column / 8];
    signs[k] = byte >> (part.column % 8);
  }
#pragma unroll
  for (int k = 0; k < kUnpackRows; ++k) {
    if (k > 0 && part.row + k >= part.end_row) continue;  // every part has a row
    T pack[size];
    for (int j = 0; j < size; ++j) {
      const Values<T>& value = palette.of(k, j);
      pack[j] = signs[k] >> j & 1 ? value.plus : value.minus;
    }
    T* target = out + (part.row + k) * shape.columns + part.column;
    if (whole) {
      store_pack(target, pack);
    } else {
      for (int j = 0; j < size; ++j) {
        if (j < part.count) target[j] = pack[j];
      }
    }
  }
}

/// `whole` holds for alpha and beta of columns, too.
template <class T, bool per_column, bool whole>
__global__ void __launch_bounds__(kMatrixThreads)
    effective_kernel(const std::uint8_t* bits, const float* alpha, const float* beta,
                     std::int64_t row_stride, MatrixShape shape, T* out) {
  constexpr int kSize = kPackSize<T>, kQuarter = kPackSize<float>;
  const Part part = part_of<kSize>(shape, kUnpackRows);
  if (part.count <= 0) return;
  Palette<T, per_column ? 1 : kUnpackRows, per_column ? kSize : 1> palette;
  for (int i = 0; per_column && i < kSize; i += kQuarter) {
    float a[kQuarter], b[kQuarter];
    load<whole>(a, alpha + part.column + i, part.count - i);
    load<whole>(b, beta + part.column + i, part.count - i);
    for (int j = 0; j < kQuarter; ++j) palette.values[0][per_column ? i + j : 0].set(a[j], b[j]);
  }
#pragma unroll
  for (int k = 0; !per_column && k < kUnpackRows; ++k) {
    const std::int64_t scale = row_of(part, k) * row_stride;
    palette.values[per_column ? 0 : k][0].set(alpha[scale], beta[scale]);
  }
  write_part<whole, kSize>(bits, shape, part, palette, out);
}

/// A thread turns a byte of signs into eight.
template <bool whole>
__global__ void __launch_bounds__(kMatrixThreads)
    signs_kernel(const std::uint8_t* bits, MatrixShape shape, std::uint8_t* out) {
  constexpr Palette<std::uint8_t, 1, 1> kOnes = {{{{0x38, 0xB8}}}};  // 1 and -1 in e4m3
  const Part part = part_of<kEight>(shape, kUnpackRows);
  if (part.count > 0) write_part<whole, kEight>(bits, shape, part, kOnes, out);
}

template <class T>
void effective(const std::uint8_t* bits, const float* alpha, const float* beta,
               ScaleStrides strides, MatrixShape shape, T* out, Stream stream) {
  const bool whole = whole_packs(out, shape.columns, kPackSize<T>) &&
                     (!strides.column || (aligned_to(alpha, 16) && aligned_to(beta, 16)));
  const auto kernel =
      strides.column
          ? (whole ? effective_kernel<T, true, true> : effective_kernel<T, true, false>)
          : (whole ? effective_kernel<T, false, true> : effective_kernel<T, false, false>);
  launch("effective_weight", kernel, matrix_grid(shape, kPackSize<T>, kUnpackRows), kMatrixThreads,
         stream, bits, alpha, beta, strides.row, shape, out);
}

}  // namespace

void pack_signs(const float* latent, MatrixShape shape, std::uint8_t* bits, Stream stream) {
  const bool whole = whole_packs(latent, shape.columns, kNibble);
  launch("pack_signs", whole ? pack_kernel<true> : pack_kernel<false>,
         matrix_grid(shape, kNibble, kPackRows), kMatrixThreads, stream, latent, shape, bits);
}

void effective_weight(const std::uint8_t* bits, const float* alpha, const float* beta,
                      ScaleStrides strides, MatrixShape shape, Element type, void* out,
                      Stream stream) {
  check_strides(strides);
  with_type(type, [&](auto element) {
    effective(bits, alpha, beta, strides, shape, static_cast<decltype(element)*>(out), stream);
  });
}

void unpack_signs_e4m3(const std::uint8_t* bits, MatrixShape shape, std::uint8_t* out,
                       Stream stream) {
  const bool whole = whole_packs(out, shape.columns, kEight);
  launch("unpack_signs_e4m3", whole ? signs_kernel<true> : signs_kernel<false>,
         matrix_grid(shape, kEight, kUnpackRows), kMatrixThreads, stream, bits, shape, out);
}

}  // namespace fbi::kernels::cuda
