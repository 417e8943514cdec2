#pragma once

#include <ATen/core/Tensor.h>

#include "fbi/ops/parameter_slot.h"

/// Products of 8-bit floats (e4m3: 4 bits of exponent, 3 of mantissa, up to 448), for models that
/// are only run: a teacher. Weights have one scale per output row and activations one per token, so
/// that one large row or token costs the others nothing; both factors of a product leave the sum,
/// and are applied once to each result.
namespace fbi::ops {

struct Fp8Rows {
  at::Tensor values;  ///< e4m3 [rows, width]
  at::Tensor scales;  ///< fp32 [rows]: max |x| / 448
};

/// x [rows, width], floating and finite: values = x / scale, to nearest even.
Fp8Rows quantize_rows(const at::Tensor& x);

/// a bᵀ for a [T, I], b [O, I] -> [T, O] in `dtype`. On a GPU by its tensor cores (dtype bf16, O
/// and I multiples of 16); elsewhere the same numbers multiplied in fp32, the reference.
at::Tensor fp8_product(const Fp8Rows& a, const Fp8Rows& b, at::ScalarType dtype);

/// From here on the value of a dense slot is e4m3 with scales: 1 byte per weight. `linears`
/// multiplies it by fp8_product, without gradient.
void store_as_fp8(ParameterSlot& slot);

/// Throws UsageError where fp8_product can't run: a GPU below compute capability 8.9.
void check_fp8(at::Device device);

}  // namespace fbi::ops
