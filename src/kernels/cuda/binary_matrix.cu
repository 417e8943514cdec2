#include "kernels/blocks.h"
#include "kernels/cuda/matrix.cuh"

namespace fbi::kernels::cuda {
namespace {

constexpr int kPackRows = 16;  // of one block: enough loads to hide what a thread begins with
constexpr int kUnpackRows = 32;

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

template <class T, bool per_column, bool whole>
__global__ void __launch_bounds__(kMatrixThreads)
    effective_kernel(const std::uint8_t* bits, const float* alpha, const float* beta,
                     std::int64_t row_stride, MatrixShape shape, T* out) {
  constexpr int kSize = kPackSize<T>;
  const Part part = part_of<kSize>(shape, kUnpackRows);
  if (part.count <= 0) return;
  Values<T> values[per_column ? kSize : 1];
  for (int j = 0; per_column && j < kSize; ++j) {
    const std::int64_t i = part.column + (j < part.count ? j : 0);
    values[per_column ? j : 0].set(alpha[i], beta[i]);
  }
#pragma unroll 4
  for (std::int64_t o = part.row; o < part.end_row; ++o) {
    if (!per_column) values[0].set(alpha[o * row_stride], beta[o * row_stride]);
    const unsigned byte = bits[o * row_bytes(shape.columns) + part.column / 8];
    const unsigned signs = byte >> (part.column % 8);
    T pack[kSize];
    for (int j = 0; j < kSize; ++j) {
      const Values<T>& value = values[per_column ? j : 0];
      pack[j] = signs >> j & 1 ? value.plus : value.minus;
    }
    T* target = out + o * shape.columns + part.column;
    if (whole) {
      store_pack(target, pack);
    } else {
      for (int j = 0; j < kSize; ++j) {
        if (j < part.count) target[j] = pack[j];
      }
    }
  }
}

/// A thread turns a byte of signs into eight.
__global__ void __launch_bounds__(kMatrixThreads)
    signs_kernel(const std::uint8_t* bits, MatrixShape shape, bool whole, std::uint8_t* out) {
  constexpr std::uint8_t kPlus = 0x38, kMinus = 0xB8;  // 1 and -1 in e4m3
  const Part part = part_of<kEight>(shape, kUnpackRows);
  if (part.count <= 0) return;
#pragma unroll 4
  for (std::int64_t o = part.row; o < part.end_row; ++o) {
    const unsigned signs = bits[o * row_bytes(shape.columns) + part.group];
    std::uint8_t pack[kEight];
    for (int j = 0; j < kEight; ++j) pack[j] = signs >> j & 1 ? kPlus : kMinus;
    std::uint8_t* target = out + o * shape.columns + part.column;
    if (whole) {
      store_pack(target, pack);
    } else {
      for (int j = 0; j < kEight; ++j) {
        if (j < part.count) target[j] = pack[j];
      }
    }
  }
}

template <class T>
void effective(const std::uint8_t* bits, const float* alpha, const float* beta,
               ScaleStrides strides, MatrixShape shape, T* out, Stream stream) {
  const bool whole = whole_packs(out, shape.columns, kPackSize<T>);
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
  launch("unpack_signs_e4m3", signs_kernel, matrix_grid(shape, kEight, kUnpackRows), kMatrixThreads,
         stream, bits, shape, whole_packs(out, shape.columns, kEight), out);
}

}  // namespace fbi::kernels::cuda
