#pragma once

#include <cstdint>

/// The serial building blocks that every processor level provides. The entries of fbi/kernels/*.h
/// cut the work into blocks of fixed size, call these, and combine partial sums in block order, so
/// that no result depends on the number of threads. Plain types only: files with instruction-set
/// flags include this header, and an inline function of theirs that the linker picks for everybody
/// would crash an older processor.
namespace fbi::kernels {

/// Double accumulators of a sum along a row or a flat array: element i goes to lane i % kLanes, the
/// lanes are added in ascending order at the end.
inline constexpr int kLanes = 16;

/// AdamWStep in fp32, each constant computed in double and rounded once.
struct AdamWConstants {
  float decay;  ///< 1 - lr·weight_decay
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float negative_step_size;  ///< -lr / bias_correction1
  float sqrt_bias_correction2;
  float eps;
  float grad_scale;
};

/// State of one latent row [columns]; gradient alpha·raw_grad.
struct LatentRow {
  float* latent;
  float* moment1;
  float* moment2;
  const float* raw_grad;
  const float* alpha;  ///< [columns] when per_column, else [1]
  bool per_column;
  std::int64_t columns;
  std::uint8_t* bits;
};

/// Row of W~ = alpha·s + beta.
struct BinaryRow {
  const std::uint8_t* bits;
  const float* alpha;  ///< [columns] when per_column, else [1]
  const float* beta;
  bool per_column;
  std::int64_t columns;
};

/// Raw gradients and signs [rows, columns].
struct GradientBlock {
  const float* raw_grad;
  const std::uint8_t* bits;
  std::int64_t rows;
  std::int64_t columns;
};

/// What the gradients of alpha and beta and the norm of the latent gradient are made of: dalpha = Σ
/// s·G = 2·positive - sum, dbeta = sum, Σ (alpha·G)² = alpha²·squares.
struct GradientSums {
  double positive;  ///< Σ of G where s = +1
  double sum;       ///< Σ G
  double squares;   ///< Σ G²
};

/// Logits of one token, [vocab_size] each. exp(x) stands for exp((x - max) · inverse_temperature).
struct LogitRow {
  float* logits;
  const float* teacher;  ///< null when there is no distillation
  std::int64_t vocab_size;
  float max;
  float teacher_max;
  float inverse_temperature;
};

struct DistillSums {
  double student;  ///< Σ exp(z)
  double teacher;  ///< Σ exp(t)
  double cross;    ///< Σ exp(t) · (z - max) · inverse_temperature
};

/// logits <- next·exp(z - max) + student·exp(z) - teacher·exp(t)
struct LossGradient {
  float next;
  float student;
  float teacher;
};

/// c[r][n] = Σ_d a[r][d]·b[d][n], d ascending, each step a fused multiply-add; sizes of one head.
struct SmallProduct {
  const float* a;
  std::int64_t a_row, a_depth;  ///< distances in elements
  const float* b;               ///< blocks of kLanes columns
  std::int64_t b_block, b_depth;
  float* c;
  std::int64_t c_row;
  std::int64_t rows, columns, depth;
};

struct CpuKernels {
  void (*pack_row)(const float* latent, std::int64_t columns, std::uint8_t* bits);
  void (*effective_row)(const BinaryRow& row, float* out);
  void (*effective_row_bf16)(const BinaryRow& row, std::uint16_t* out);

  void (*adamw)(float* value, float* moment1, float* moment2, const float* grad, std::int64_t count,
                const AdamWConstants& constants);
  /// Returns the number of flips of latent >= 0.
  std::int64_t (*adamw_latent_row)(const LatentRow& row, const AdamWConstants& constants);

  double (*sum_of_squares)(const float* x, std::int64_t count);
  /// Of one row.
  GradientSums (*gradient_row_sums)(const float* raw_grad, const std::uint8_t* bits,
                                    std::int64_t columns);
  /// Adds the rows in ascending order to `sums`: [3][columns], in the order of GradientSums.
  void (*gradient_column_sums)(const GradientBlock& block, double* sums);

  float (*max)(const float* x, std::int64_t count);
  /// Σ exp((x - max) · factor)
  double (*sum_exp)(const float* x, std::int64_t count, float max, float factor);
  DistillSums (*distill_sums)(const LogitRow& row);
  void (*loss_gradient)(const LogitRow& row, const LossGradient& factors);

  /// The exponential inside the loss, alone so that its error can be tested.
  void (*exp)(const float* x, std::int64_t count, float* out);

  /// out[i] = x[i] · factor · weight[i]
  void (*scaled_product)(const float* x, float factor, const float* weight, std::int64_t count,
                         float* out);
  /// sums[i] += x[i] · y[i] · factor
  void (*add_scaled_products)(const float* x, const float* y, float factor, std::int64_t count,
                              double* sums);
  /// Of one token, fbi/kernels/layer.h has the formula; dx may take the place of x or dout.
  void (*rms_norm_backward_row)(const float* x, const float* weight, const float* dout,
                                float inverse_rms, std::int64_t count, float* dx);
  void (*silu_product)(const float* gate, const float* up, std::int64_t count, float* out);
  void (*silu_product_backward)(const float* dout, const float* gate, const float* up,
                                std::int64_t count, float* dgate, float* dup);

  /// out[j·out_row + i] = x[i·x_row + j], plus shift[j] unless it is null.
  void (*transpose)(const float* x, std::int64_t x_row, std::int64_t rows, std::int64_t columns,
                    const float* shift, float* out, std::int64_t out_row);

  void (*multiply)(const SmallProduct& product, bool add_to_c);
  /// x[i] <- exp((x[i] - max) · factor); returns the sum of these.
  double (*exp_row)(float* x, std::int64_t count, float max, float factor);
  /// p[i] <- p[i] · inverse_sum, then dp[i] <- p[i] · (dp[i] - Σ p·dp) · scale.
  void (*softmax_backward_row)(float* p, float* dp, std::int64_t count, float inverse_sum,
                               float scale);

  /// Of one head, `half` angles.
  void (*rotate)(const float* x, const float* cos, const float* sin, bool inverse,
                 std::int64_t half, float* out);
};

/// Plain loops; every other level is tested against it and it is never removed.
extern const CpuKernels kRefKernels;
extern const CpuKernels kNeonKernels;
extern const CpuKernels kAvx2Kernels;
extern const CpuKernels kAvx512Kernels;

}  // namespace fbi::kernels
