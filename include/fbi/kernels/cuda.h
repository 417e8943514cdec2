#pragma once

#include <cstdint>
#include <stdexcept>

#include "fbi/kernels/adamw.h"
#include "fbi/kernels/binary_matrix.h"

/// The trainer's kernels (cuda_decode.h: those of the 1-bit runtime) on an NVIDIA GPU of compute
/// capability 8.0 or 9.0. The functions exist in builds with FBI_CUDA=ON only. Checked by
/// compilation and on an emulator of blocks and warps (tests/kernels/cuda_on_cpu); no GPU has run
/// them yet.
///
/// Every pointer is memory of the current device. Functions enqueue on `stream` and return: no
/// result has arrived when they return, nothing is allocated, nothing waits. They throw UsageError
/// for arguments that make no sense and CudaError when a launch is refused; an error inside a
/// kernel shows at a later call, as CUDA does. Contents that the processor's form checks (targets)
/// are not checked here, see there.
///
/// Results depend on arguments only: floating-point sums are formed in an order given by the shape,
/// without atomics. Pack, unpack and AdamW give the bits of the processor's kernels; where sums
/// differ it says so. Arrays need the alignment of their elements; 16-byte alignment of arrays and
/// rows is faster.
namespace fbi::kernels::cuda {

class CudaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A cudaStream_t; null is the default stream.
using Stream = void*;

/// Type of an array given as void pointer. Arithmetic is fp32 for all; a result is rounded once, to
/// nearest even (a NaN stays a NaN, with the device's bits).
enum class Element { kFp32, kBf16, kFp16 };

/// Like kernels::pack_signs, bit for bit.
void pack_signs(const float* latent, MatrixShape shape, std::uint8_t* bits, Stream stream);

/// out [rows, columns] of type `type` = alpha·s + beta, formed in fp32 and rounded once; the bits
/// of kernels::effective_weight (kFp32) and effective_weight_bf16 (kBf16).
void effective_weight(const std::uint8_t* bits, const float* alpha, const float* beta,
                      ScaleStrides strides, MatrixShape shape, Element type, void* out,
                      Stream stream);

/// out [rows, columns] = the bytes of +1 and -1 as 8-bit floats (e4m3).
void unpack_signs_e4m3(const std::uint8_t* bits, MatrixShape shape, std::uint8_t* out,
                       Stream stream);

/// Number of doubles that scale_gradients needs.
std::int64_t scale_gradients_workspace(ScaleStrides strides, MatrixShape shape);
/// Like kernels::scale_gradients; *squares (device memory) receives Σ (alpha·G)². dalpha and dbeta
/// have its bits for scales per column and per row; a single scale's, and squares, are double sums
/// in another order (relative 1e-13).
void scale_gradients(const float* raw_grad, const std::uint8_t* bits, const float* alpha,
                     ScaleStrides strides, MatrixShape shape, float* dalpha, float* dbeta,
                     double* squares, double* workspace, Stream stream);

/// Number of doubles that sum_of_squares needs.
std::int64_t sum_of_squares_workspace(std::int64_t count);
/// *out (device memory) = Σ x² in double, in an order that depends on count alone; another one than
/// the processor's (relative 1e-13).
void sum_of_squares(const float* x, std::int64_t count, double* out, double* workspace,
                    Stream stream);

/// Like kernels::adamw, bit for bit.
void adamw(float* value, float* moment1, float* moment2, const float* grad, std::int64_t count,
           const AdamWStep& step, Stream stream);

/// Like kernels::adamw_latent, bit for bit; the number of flips is added to *flips (device memory).
void adamw_latent(float* latent, float* moment1, float* moment2, const float* raw_grad,
                  const float* alpha, ScaleStrides strides, MatrixShape shape, std::uint8_t* bits,
                  const AdamWStep& step, std::int64_t* flips, Stream stream);

/// kernels::DistillLossArgs (fbi/kernels/distill_loss.h has the definitions) with logits of any
/// type. The gradient is rounded to the logits' type. A target outside of [0, V) makes the token's
/// losses and its whole gradient NaN; targets are read where loss_next is given. Exponentials come
/// from the device's exp2: relative error 3e-7 + 1e-7·|z - max|/τ, so losses agree with the
/// reference within 1e-6 of max(1, loss) and gradients within 3e-6 of each probability.
struct DistillLossArgs {
  void* logits = nullptr;                ///< [T, V] of type `type`; replaced by the gradient
  const void* teacher_logits = nullptr;  ///< [T, V] of type `type`, may be null when distill is 0
  Element type = Element::kFp32;
  const std::int32_t* targets = nullptr;  ///< [T]
  std::int64_t tokens = 0;                ///< T
  std::int64_t vocab_size = 0;            ///< V
  double next_token = 0;
  double distill = 1;
  double temperature = 1;
  double grad_scale = 1;
  float* loss_next = nullptr;     ///< [T]
  float* loss_distill = nullptr;  ///< [T]
};
void distill_loss(const DistillLossArgs& args, Stream stream);

/// out[t] = -log softmax(logits_t)[targets_t], the bits of loss_next; NaN for a target outside of
/// [0, V).
void next_token_nll(const void* logits, Element type, const std::int32_t* targets,
                    std::int64_t tokens, std::int64_t vocab_size, float* out, Stream stream);

/// RMSNorm: out = weight · x / sqrt(mean(x²) + eps) over rows [tokens, width].
struct RmsNormArgs {
  const void* x = nullptr;  ///< [tokens, width]
  Element x_type = Element::kFp32;
  const float* weight = nullptr;  ///< [width]
  std::int64_t tokens = 0;
  std::int64_t width = 0;
};
/// inverse_rms [tokens] is kept for the backward.
void rms_norm(const RmsNormArgs& args, double eps, void* out, Element out_type, float* inverse_rms,
              Stream stream);

/// Number of floats that rms_norm_backward needs where dweight is given.
std::int64_t rms_norm_backward_workspace(std::int64_t tokens, std::int64_t width);
/// With n = x·inverse_rms, g = dout·weight: dx (type of x) = inverse_rms·(g - n·mean(g·n)); dweight
/// += Σ_t dout·n (fp32 within 8 tokens, double over all). dx may take the place of x or dout;
/// dweight and workspace may both be null.
void rms_norm_backward(const RmsNormArgs& args, const float* inverse_rms, const void* dout,
                       Element dout_type, void* dx, float* dweight, float* workspace,
                       Stream stream);

/// Rotation of the halves of each head (x1, x2) -> (x1·cos - x2·sin, x2·cos + x1·sin). Strides
/// count elements; the values of one head lie side by side.
struct RotaryStrides {
  std::int64_t batch = 0, head = 0, position = 0;
};
struct RotaryArgs {
  const void* x = nullptr;  ///< [batch, heads, positions, head_dim] by x_strides
  void* out = nullptr;      ///< the same by out_strides; may be x with the same strides
  Element type = Element::kFp32;
  RotaryStrides x_strides, out_strides;
  std::int64_t batch = 0, heads = 0, positions = 0;
  std::int64_t head_dim = 0;  ///< even
  const void* cos = nullptr;  ///< [positions, head_dim / 2] of type `type`
  const void* sin = nullptr;
  bool inverse = false;  ///< rotates by the opposite angle: the gradient
};
void rotary(const RotaryArgs& args, Stream stream);

/// out = silu(gate)·up, silu(g) = g / (1 + exp(-g)); all of one type, out may be gate or up.
void silu_product(const void* gate, const void* up, Element type, std::int64_t count, void* out,
                  Stream stream);
/// dgate = dout·up·silu'(gate), dup = dout·silu(gate); they may take the place of gate, up or dout.
void silu_product_backward(const void* dout, const void* gate, const void* up, Element type,
                           std::int64_t count, void* dgate, void* dup, Stream stream);

/// What a product with alpha·s + beta per column takes of its inputs on the way: x becomes alpha·x,
/// and sums [rows] = Σ beta·x of x as it was, in fp32. All or none are null.
struct ColumnScales {
  const float* alpha = nullptr;  ///< [width]
  const float* beta = nullptr;   ///< [width]
  float* sums = nullptr;         ///< [rows]
};
/// Rows as 8-bit floats (e4m3) with a scale each: values [rows, width] = x / scale to nearest even,
/// scales [rows] = max |x| / 448, at least the smallest normal number. Contents are finite.
void quantize_rows(const void* x, Element type, std::int64_t rows, std::int64_t width,
                   const ColumnScales& columns, std::uint8_t* values, float* scales, Stream stream);

/// The gradient of an embedding: grad[ids[t]] += dx[t] in token order, the bits of a serial loop
/// (an index_add is free to take any order). Ids outside of [0, rows), and skip_id, are left out.
struct EmbeddingGradientArgs {
  const std::int64_t* ids = nullptr;    ///< [tokens], sorted
  const std::int64_t* order = nullptr;  ///< [tokens]: whose id it is; ascending among equal ids
  const void* dx = nullptr;             ///< [tokens, width] of type `type`
  Element type = Element::kFp32;
  std::int64_t tokens = 0;
  std::int64_t rows = 0;
  std::int64_t width = 0;
  std::int64_t skip_id = -1;
  float* grad = nullptr;  ///< [rows, width]
};
void accumulate_embedding_gradient(const EmbeddingGradientArgs& args, Stream stream);

}  // namespace fbi::kernels::cuda
