#include "kernels/ref/ref.h"

namespace fbi::kernels {

constinit const CpuKernels kRefKernels = {
    .pack_row = ref::pack_row,
    .effective_row = ref::effective_row,
    .effective_row_bf16 = ref::effective_row_bf16,
    .adamw = ref::adamw,
    .adamw_latent_row = ref::adamw_latent_row,
    .sum_of_squares = ref::sum_of_squares,
    .gradient_row_sums = ref::gradient_row_sums,
    .gradient_column_sums = ref::gradient_column_sums,
    .max = ref::max,
    .sum_exp = ref::sum_exp,
    .distill_sums = ref::distill_sums,
    .loss_gradient = ref::loss_gradient,
    .exp = ref::exp,
    .scaled_product = ref::scaled_product,
    .add_scaled_products = ref::add_scaled_products,
    .rms_norm_backward_row = ref::rms_norm_backward_row,
    .silu_product = ref::silu_product,
    .silu_product_backward = ref::silu_product_backward,
    .transpose = ref::transpose,
    .multiply = ref::multiply,
    .exp_row = ref::exp_row,
    .softmax_backward_row = ref::softmax_backward_row,
    .rotate = ref::rotate,
};

}  // namespace fbi::kernels
