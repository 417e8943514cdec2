#pragma once

#include "kernels/cpu_kernels.h"

/// The reference, declared for its own files only; cpu_kernels.h holds the contracts.
namespace fbi::kernels::ref {

void pack_row(const float* latent, std::int64_t columns, std::uint8_t* bits);
void effective_row(const BinaryRow& row, float* out);
void effective_row_bf16(const BinaryRow& row, std::uint16_t* out);

void adamw(float* value, float* moment1, float* moment2, const float* grad, std::int64_t count,
           const AdamWConstants& constants);
std::int64_t adamw_latent_row(const LatentRow& row, const AdamWConstants& constants);

double sum_of_squares(const float* x, std::int64_t count);
GradientSums gradient_row_sums(const float* raw_grad, const std::uint8_t* bits,
                               std::int64_t columns);
void gradient_column_sums(const GradientBlock& block, double* sums);

float max(const float* x, std::int64_t count);
double sum_exp(const float* x, std::int64_t count, float max, float factor);
DistillSums distill_sums(const LogitRow& row);
void loss_gradient(const LogitRow& row, const LossGradient& factors);

void exp(const float* x, std::int64_t count, float* out);

void scaled_product(const float* x, float factor, const float* weight, std::int64_t count,
                    float* out);
void add_scaled_products(const float* x, const float* y, float factor, std::int64_t count,
                         double* sums);
void rms_norm_backward_row(const float* x, const float* weight, const float* dout,
                           float inverse_rms, std::int64_t count, float* dx);
void silu_product(const float* gate, const float* up, std::int64_t count, float* out);
void silu_product_backward(const float* dout, const float* gate, const float* up,
                           std::int64_t count, float* dgate, float* dup);
void transpose(const float* x, std::int64_t x_row, std::int64_t rows, std::int64_t columns,
               const float* shift, float* out, std::int64_t out_row);
void multiply(const SmallProduct& product, bool add_to_c);
double exp_row(float* x, std::int64_t count, float max, float factor);
void softmax_backward_row(float* p, float* dp, std::int64_t count, float inverse_sum, float scale);
void rotate(const float* x, const float* cos, const float* sin, bool inverse, std::int64_t half,
            float* out);

inline bool sign_bit(const std::uint8_t* bits, std::int64_t i) {
  return bits[i / 8] >> (i % 8) & 1;
}
inline float with_sign(const std::uint8_t* bits, std::int64_t i, float x) {
  return sign_bit(bits, i) ? x : -x;
}

}  // namespace fbi::kernels::ref
