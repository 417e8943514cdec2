#pragma once

#include "kernels/cpu/vec16_attention.h"
#include "kernels/cpu/vec16_layer.h"
#include "kernels/cpu/vec16_matrix.h"

namespace fbi::kernels {
namespace {

constexpr CpuKernels kVec16Kernels = {
    .pack_row = pack_row,
    .effective_row = effective_row,
    .effective_row_bf16 = effective_row_bf16,
    .adamw = adamw,
    .adamw_latent_row = adamw_latent_row,
    .sum_of_squares = sum_of_squares,
    .gradient_row_sums = gradient_row_sums,
    .gradient_column_sums = gradient_column_sums,
    .max = max,
    .sum_exp = sum_exp,
    .distill_sums = distill_sums,
    .loss_gradient = loss_gradient,
    .exp = exp,
    .scaled_product = scaled_product,
    .add_scaled_products = add_scaled_products,
    .rms_norm_backward_row = rms_norm_backward_row,
    .silu_product = silu_product,
    .silu_product_backward = silu_product_backward,
    .transpose = transpose,
    .multiply = multiply,
    .exp_row = exp_row,
    .softmax_backward_row = softmax_backward_row,
    .rotate = rotate,
};

}  // namespace
}  // namespace fbi::kernels
