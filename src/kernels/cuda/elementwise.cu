#include <cmath>

#include "fbi/core/error.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

namespace fbi::kernels::cuda {
namespace {

constexpr int kThreads = 256;
/// Of a head that a thread rotates: 16 bytes of each half.
template <class T>
constexpr int kPairs = kPackSize<T>;

template <class T>
struct Rotary {
  const T* x;
  T* out;
  RotaryStrides x_strides, out_strides;
  std::int64_t positions;
  std::int64_t half;  ///< head_dim / 2
  unsigned groups;    ///< threads of one head
  const T* cos;
  const T* sin;
  float sign;  ///< of the angle
};

/// Blocks: positions, heads, batch. `whole`: everything can be moved in packs.
template <class T, bool whole>
__global__ void __launch_bounds__(kThreads) rotary_kernel(Rotary<T> args) {
  constexpr int kSize = kPairs<T>;
  const unsigned item = blockIdx.x * kThreads + threadIdx.x, group = item % args.groups;
  const std::int64_t position = item / args.groups;
  if (position >= args.positions) return;
  const std::int64_t pair = std::int64_t{group} * kSize, left = args.half - pair;
  const auto offset = [&](const RotaryStrides& strides) {
    return blockIdx.z * strides.batch + blockIdx.y * strides.head + position * strides.position +
           pair;
  };
  const T* x = args.x + offset(args.x_strides);
  T* out = args.out + offset(args.out_strides);
  float first[kSize], second[kSize], cos[kSize], sin[kSize];
  load<whole>(first, x, left);
  load<whole>(second, x + args.half, left);
  load<whole>(cos, args.cos + position * args.half + pair, left);
  load<whole>(sin, args.sin + position * args.half + pair, left);
  for (int j = 0; j < kSize; ++j) {
    const float a = first[j], b = second[j], s = args.sign * sin[j];
    first[j] = a * cos[j] - b * s;
    second[j] = b * cos[j] + a * s;
  }
  store<whole>(out, first, left);
  store<whole>(out + args.half, second, left);
}

template <class T>
bool multiple_of_pack(const RotaryStrides& strides) {
  return strides.batch % kPairs<T> == 0 && strides.head % kPairs<T> == 0 &&
         strides.position % kPairs<T> == 0;
}

template <class T>
void rotate(const RotaryArgs& args, Stream stream) {
  Rotary<T> rotary = {};
  rotary.x = static_cast<const T*>(args.x);
  rotary.out = static_cast<T*>(args.out);
  rotary.x_strides = args.x_strides;
  rotary.out_strides = args.out_strides;
  rotary.positions = args.positions;
  rotary.half = args.head_dim / 2;
  rotary.groups = static_cast<unsigned>(ceil_div(rotary.half, kPairs<T>));
  rotary.cos = static_cast<const T*>(args.cos);
  rotary.sin = static_cast<const T*>(args.sin);
  rotary.sign = args.inverse ? -1.0f : 1.0f;
  const auto aligned = [](const void* data) { return aligned_to(data, sizeof(T) * kPairs<T>); };
  const bool whole = rotary.half % kPairs<T> == 0 && multiple_of_pack<T>(args.x_strides) &&
                     multiple_of_pack<T>(args.out_strides) && aligned(args.x) &&
                     aligned(args.out) && aligned(args.cos) && aligned(args.sin);
  const Grid grid = {ceil_div(args.positions * rotary.groups, kThreads), args.heads, args.batch};
  launch("rotary", whole ? rotary_kernel<T, true> : rotary_kernel<T, false>, grid, kThreads, stream,
         rotary);
}

__device__ inline float sigmoid(float x) {
  return 1 / (1 + expf(-x));
}

/// Elements of one thread, of which `count` are there.
template <bool whole, class T>
__device__ inline void silu(const T* gates, const T* ups, std::int64_t count, T* out) {
  constexpr int kSize = kPackSize<T>;
  float gate[kSize], up[kSize];
  load<whole>(gate, gates, count);
  load<whole>(up, ups, count);
  for (int j = 0; j < kSize; ++j) gate[j] = gate[j] / (1 + expf(-gate[j])) * up[j];
  store<whole>(out, gate, count);
}
template <bool whole, class T>
__device__ inline void silu_backward(const T* douts, const T* gates, const T* ups,
                                     std::int64_t count, T* dgates, T* dups) {
  constexpr int kSize = kPackSize<T>;
  float dout[kSize], gate[kSize], up[kSize];
  load<whole>(dout, douts, count);
  load<whole>(gate, gates, count);
  load<whole>(up, ups, count);
  for (int j = 0; j < kSize; ++j) {
    const float s = sigmoid(gate[j]), slope = s * (1 + gate[j] * (1 - s));
    const float dgate = dout[j] * up[j] * slope;
    up[j] = dout[j] * gate[j] * s;
    gate[j] = dgate;
  }
  store<whole>(dgates, gate, count);
  store<whole>(dups, up, count);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    silu_kernel(const T* gates, const T* ups, std::int64_t count, bool aligned, T* out) {
  constexpr int kSize = kPackSize<T>;
  const std::int64_t i = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kSize;
  if (aligned && count - i >= kSize) {
    silu<true>(gates + i, ups + i, kSize, out + i);
  } else {
    silu<false>(gates + i, ups + i, count - i, out + i);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    silu_backward_kernel(const T* douts, const T* gates, const T* ups, std::int64_t count,
                         bool aligned, T* dgates, T* dups) {
  constexpr int kSize = kPackSize<T>;
  const std::int64_t i = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kSize;
  if (aligned && count - i >= kSize) {
    silu_backward<true>(douts + i, gates + i, ups + i, kSize, dgates + i, dups + i);
  } else {
    silu_backward<false>(douts + i, gates + i, ups + i, count - i, dgates + i, dups + i);
  }
}

Grid flat_grid(std::int64_t count, int size) {
  return {ceil_div(count, std::int64_t{kThreads} * size)};
}

}  // namespace

void rotary(const RotaryArgs& args, Stream stream) {
  if (args.head_dim % 2 != 0)
    throw UsageError(concat("rotary: expected an even head size, found ", args.head_dim));
  with_type(args.type, [&](auto element) { rotate<decltype(element)>(args, stream); });
}

void silu_product(const void* gate, const void* up, Element type, std::int64_t count, void* out,
                  Stream stream) {
  with_type(type, [&](auto element) {
    using T = decltype(element);
    const bool aligned = aligned_to(gate, 16) && aligned_to(up, 16) && aligned_to(out, 16);
    launch("silu_product", silu_kernel<T>, flat_grid(count, kPackSize<T>), kThreads, stream,
           static_cast<const T*>(gate), static_cast<const T*>(up), count, aligned,
           static_cast<T*>(out));
  });
}

void silu_product_backward(const void* dout, const void* gate, const void* up, Element type,
                           std::int64_t count, void* dgate, void* dup, Stream stream) {
  with_type(type, [&](auto element) {
    using T = decltype(element);
    const bool aligned = aligned_to(dout, 16) && aligned_to(gate, 16) && aligned_to(up, 16) &&
                         aligned_to(dgate, 16) && aligned_to(dup, 16);
    launch("silu_product_backward", silu_backward_kernel<T>, flat_grid(count, kPackSize<T>),
           kThreads, stream, static_cast<const T*>(dout), static_cast<const T*>(gate),
           static_cast<const T*>(up), count, aligned, static_cast<T*>(dgate), static_cast<T*>(dup));
  });
}

}  // namespace fbi::kernels::cuda
