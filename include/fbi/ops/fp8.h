#pragma once

#include <string_view>

#include <ATen/core/Tensor.h>

#include "fbi/ops/parameter_slot.h"

/// Products of 8-bit floats (e4m3: 4 bits of exponent, 3 of mantissa, up to 448), for matrices that
/// are only run, a teacher's, and for the forward products of a student, whose signs e4m3 holds
/// exactly. Weights have one scale per output row and activations one per token, so that one large
/// row or token costs the others nothing; both factors of a product leave the sum, and are applied
/// once to each result.
namespace fbi::ops {

struct Fp8Rows {
  at::Tensor values;  ///< e4m3 [rows, width]
  at::Tensor scales;  ///< fp32 [rows]: max |x| / 448
};

/// x [rows, width], floating and finite: values = x / scale, to nearest even.
Fp8Rows quantize_rows(const at::Tensor& x);

/// What x [rows, width] gives to a product with alpha·s + beta per column: rows of x∘alpha, and
/// sums [rows] = x·beta in fp32. alpha and beta: fp32 [width].
struct Fp8SignInputs {
  Fp8Rows rows;
  at::Tensor sums;
};
Fp8SignInputs quantize_for_signs(const at::Tensor& x, const at::Tensor& alpha,
                                 const at::Tensor& beta);

/// The signs of a packed slot as e4m3 [O, I], +1 and -1.
at::Tensor signs_as_fp8(const ParameterSlot& slot);

/// How a GPU's tensor cores add: in 14 bits, as they do by themselves and as is usual where nothing
/// learns from the sums; or with parts of a sum added in fp32, which takes longer.
enum class Fp8Sums { kFast, kFp32 };

/// a bᵀ for a [T, I], b [O, I] -> [T, O] in `dtype`. On a GPU by its tensor cores (dtype bf16, O
/// and I multiples of 16); elsewhere the same numbers multiplied in fp32, the reference.
at::Tensor fp8_product(const Fp8Rows& a, const Fp8Rows& b, at::ScalarType dtype, Fp8Sums sums);

/// From here on the value of a dense slot is e4m3 with scales: 1 byte per weight. `linears`
/// multiplies it by fp8_product, without gradient.
void store_as_fp8(ParameterSlot& slot);

/// For errors: the option that asks for these products, and what it can be instead.
struct Fp8Choice {
  std::string_view option, instead;
};
/// Throws UsageError where fp8_product can't run: a GPU below compute capability 8.9.
void check_fp8(const Fp8Choice& choice, at::Device device);
/// The same for a GPU of that capability, 90 for 9.0.
void check_fp8_capability(const Fp8Choice& choice, at::Device device, int capability);
/// Throws UsageError where it does not take the slot's matrix: a GPU, and widths of other than 16s.
void check_fp8_widths(const Fp8Choice& choice, at::Device device, const ParameterSlot& slot);

}  // namespace fbi::ops
