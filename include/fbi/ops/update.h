#pragma once

#include <ATen/core/Tensor.h>

#include "fbi/kernels/adamw.h"
#include "fbi/kernels/binary_matrix.h"

/// The kernels of the optimizer on tensors, on the processor or the GPU that the tensors are on.
/// fp32, contiguous. Numbers that come out go to memory of the same device, so that nobody waits
/// for a GPU here.
namespace fbi::ops {

/// Rows of a packed slot that one rank owns: pointers into its bits and alpha, on `device`.
struct SlotRows {
  at::Device device = at::kCPU;
  std::uint8_t* bits = nullptr;
  float* alpha = nullptr;
  kernels::ScaleStrides strides;
  kernels::MatrixShape shape;
};

/// kernels::scale_gradients; *squares is what it returns.
void scale_gradients(const SlotRows& rows, const at::Tensor& grad, float* dalpha, float* dbeta,
                     double* squares);
/// kernels::adamw_latent; *flips grows by the number of flips.
void adamw_latent(const SlotRows& rows, const at::Tensor& latent, const at::Tensor& exp_avg,
                  const at::Tensor& exp_avg_sq, const at::Tensor& grad,
                  const kernels::AdamWStep& step, std::int64_t* flips);
/// kernels::adamw.
void adamw(const at::Tensor& value, const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq,
           const at::Tensor& grad, const kernels::AdamWStep& step);
/// *out = kernels::sum_of_squares.
void sum_of_squares(const at::Tensor& x, double* out);
/// kernels::pack_signs.
void pack_signs(const SlotRows& rows, const at::Tensor& latent);

}  // namespace fbi::ops
