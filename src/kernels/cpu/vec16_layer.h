#pragma once

#include "kernels/cpu/vec16_loss.h"

/// Between the matrix products of a layer; cpu_kernels.h has the formulas. Element-wise results
/// differ from the reference's by the exponential alone.
namespace fbi::kernels {
namespace {

void scaled_product(const float* x, float factor, const float* weight, std::int64_t count,
                    float* out) {
  for_lanes(count, [&](std::int64_t i, auto lanes) {
    store(out + i, mul(mul(load(x + i, lanes), splat(factor)), load(weight + i, lanes)), lanes);
  });
}

void add_scaled_products(const float* x, const float* y, float factor, std::int64_t count,
                         double* sums) {
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Doubles sum = load(sums + i);
    accumulate(sum, widen(mul(load(x + i), mul(load(y + i), splat(factor)))));
    store(sums + i, sum);
  }
  for (; i < count; ++i) sums[i] += double{x[i] * (y[i] * factor)};
}

void rms_norm_backward_row(const float* x, const float* weight, const float* dout,
                           float inverse_rms, std::int64_t count, float* dx) {
  Doubles sum = zero_doubles();
  for_lanes(count, [&](std::int64_t i, auto lanes) {
    const Floats n = mul(load(x + i, lanes), splat(inverse_rms));
    accumulate(sum, widen(mul(mul(load(dout + i, lanes), load(weight + i, lanes)), n)));
  });
  const Floats mean = splat(static_cast<float>(sum_of_lanes(sum) / static_cast<double>(count)));
  for_lanes(count, [&](std::int64_t i, auto lanes) {
    const Floats n = mul(load(x + i, lanes), splat(inverse_rms));
    const Floats g = mul(load(dout + i, lanes), load(weight + i, lanes));
    store(dx + i, mul(fnma(n, mean, g), splat(inverse_rms)), lanes);
  });
}

/// 1 + exp(-x)
inline Floats one_and_exp_of_minus(Floats x) {
  return add(splat(1), exp_nonpositive(min(splat(88.5f), sub(splat(0), x))));
}

void silu_product(const float* gate, const float* up, std::int64_t count, float* out) {
  for_lanes(count, [&](std::int64_t i, auto lanes) {
    const Floats g = load(gate + i, lanes);
    store(out + i, mul(div(g, one_and_exp_of_minus(g)), load(up + i, lanes)), lanes);
  });
}

void silu_product_backward(const float* dout, const float* gate, const float* up,
                           std::int64_t count, float* dgate, float* dup) {
  for_lanes(count, [&](std::int64_t i, auto lanes) {
    const Floats g = load(gate + i, lanes), d = load(dout + i, lanes);
    const Floats sigmoid = div(splat(1), one_and_exp_of_minus(g));
    const Floats slope = mul(sigmoid, fma(g, sub(splat(1), sigmoid), splat(1)));
    const Floats du = mul(d, load(up + i, lanes));
    store(dgate + i, mul(du, slope), lanes);
    store(dup + i, mul(d, mul(g, sigmoid)), lanes);
  });
}

void rotate(const float* x, const float* cos, const float* sin, bool inverse, std::int64_t half,
            float* out) {
  const Floats direction = splat(inverse ? -1.0f : 1.0f);
  for_lanes(half, [&](std::int64_t i, auto lanes) {
    const Floats a = load(x + i, lanes), b = load(x + half + i, lanes);
    const Floats c = load(cos + i, lanes), s = mul(direction, load(sin + i, lanes));
    store(out + i, fms(a, c, mul(b, s)), lanes);
    store(out + half + i, fma(b, c, mul(a, s)), lanes);
  });
}

}  // namespace
}  // namespace fbi::kernels
