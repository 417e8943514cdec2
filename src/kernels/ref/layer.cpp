#include <cmath>

#include "kernels/ref/ref.h"

namespace fbi::kernels::ref {

void scaled_product(const float* x, float factor, const float* weight, std::int64_t count,
                    float* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = x[i] * factor * weight[i];
}

void add_scaled_products(const float* x, const float* y, float factor, std::int64_t count,
                         double* sums) {
  for (std::int64_t i = 0; i < count; ++i) sums[i] += double{x[i] * (y[i] * factor)};
}

void rms_norm_backward_row(const float* x, const float* weight, const float* dout,
                           float inverse_rms, std::int64_t count, float* dx) {
  const double r = inverse_rms;
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += double{dout[i]} * weight[i] * (x[i] * r);
  const double mean = sum / static_cast<double>(count);
  for (std::int64_t i = 0; i < count; ++i)
    dx[i] = static_cast<float>(r * (double{dout[i]} * weight[i] - x[i] * r * mean));
}

void silu_product(const float* gate, const float* up, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i)
    out[i] = static_cast<float>(gate[i] / (1 + std::exp(-double{gate[i]})) * up[i]);
}

void silu_product_backward(const float* dout, const float* gate, const float* up,
                           std::int64_t count, float* dgate, float* dup) {
  for (std::int64_t i = 0; i < count; ++i) {
    const double g = gate[i], d = dout[i], sigmoid = 1 / (1 + std::exp(-g));
    const double slope = sigmoid * (1 + g * (1 - sigmoid));
    dgate[i] = static_cast<float>(d * up[i] * slope);
    dup[i] = static_cast<float>(d * g * sigmoid);
  }
}

void rotate(const float* x, const float* cos, const float* sin, bool inverse, std::int64_t half,
            float* out) {
  for (std::int64_t i = 0; i < half; ++i) {
    const double a = x[i], b = x[half + i], c = cos[i], s = inverse ? -sin[i] : sin[i];
    out[i] = static_cast<float>(a * c - b * s);
    out[half + i] = static_cast<float>(b * c + a * s);
  }
}

}  // namespace fbi::kernels::ref
