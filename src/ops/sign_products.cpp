#include "ops/sign_products.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>

#include <span>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/kernels/dispatch.h"
#include "fbi/kernels/gemv.h"
#include "fbi/ops/fp8.h"
#include "fbi/ops/parallel.h"
#include "fbi/ops/scale_strides.h"
#include "fbi/ops/sign_products.h"

namespace fbi::ops {
namespace {

constexpr Fp8Choice kFp8Signs{"train.sign_products=fp8", "dense"};

/// Below, taking the signs apart costs more than the products.
constexpr std::int64_t kFewTokens = 32;

bool takes_tables(at::Device device, at::ScalarType dtype) {
  return device.is_cpu() && dtype == at::kFloat;
}

std::span<const float> values(const at::Tensor& x) {
  return {x.const_data_ptr<float>(), static_cast<std::size_t>(x.numel())};
}

at::Tensor multiply(const ParameterSlot& slot, const std::uint8_t* bits,
                    kernels::ScaleStrides strides, kernels::MatrixShape shape,
                    const at::Tensor& x) {
  const auto activations = slot.products == SignProducts::kInt8 ? kernels::Activations::kInt8
                                                                : kernels::Activations::kExact;
  const kernels::BinaryLinear signs(bits, values(slot.alpha), values(slot.beta), strides, shape,
                                    activations, torch_parallel_for());
  at::Tensor y = at::empty({x.size(0), shape.rows}, x.options());
  kernels::multiply(signs, x.const_data_ptr<float>(), x.size(0), y.data_ptr<float>(),
                    torch_parallel_for());
  return y;
}

}  // namespace

bool uses_sign_tables(const ParameterSlot& slot, at::ScalarType dtype, std::int64_t tokens) {
  return !unpacks(slot.products) && slot.kind == SlotKind::kPacked && slot.rounding == at::kFloat &&
         dtype == at::kFloat && tokens >= kFewTokens;
}

at::Tensor multiply_signs(const ParameterSlot& slot, const at::Tensor& x) {
  return multiply(slot, slot.bits.const_data_ptr<std::uint8_t>(), scale_strides(slot),
                  {slot.rows(), slot.columns()}, x);
}

at::Tensor multiply_signs_transposed(const ParameterSlot& slot, const at::Tensor& dy) {
  const kernels::MatrixShape shape{slot.rows(), slot.columns()};
  std::vector<std::uint8_t> bits(
      static_cast<std::size_t>(shape.columns * kernels::row_bytes(shape.rows)));
  kernels::transpose_signs(slot.bits.const_data_ptr<std::uint8_t>(), shape, bits.data(),
                           torch_parallel_for());
  const kernels::ScaleStrides strides = scale_strides(slot);
  return multiply(slot, bits.data(), {strides.column, strides.row}, {shape.columns, shape.rows},
                  dy);
}

bool uses_fp8_signs(const ParameterSlot& slot) {
  return slot.products == SignProducts::kFp8 && slot.kind == SlotKind::kPacked &&
         slot.rounding == at::kFloat;
}

/// Scales of columns go into the inputs, those of rows are factors of the results.
at::Tensor multiply_signs_fp8(const ParameterSlot& slot, const at::Tensor& x) {
  const bool by_column = slot.pattern == ScalePattern::kColumn;
  const std::int64_t others = by_column ? slot.rows() : slot.columns();
  const at::Tensor ones = at::ones({others}, slot.alpha.options());
  const auto of_rows = [&](const at::Tensor& scales) {  // also where all rows share one
    return by_column ? ones : scales.expand({slot.rows()}).contiguous();
  };
  const Fp8SignInputs inputs =
      quantize_for_signs(x, by_column ? slot.alpha : ones, by_column ? slot.beta : ones);
  const Fp8Rows signs{signs_as_fp8(slot), of_rows(slot.alpha)};
  // Backward takes the sums of this product as exact.
  at::Tensor y = fp8_product(inputs.rows, signs, x.scalar_type(), Fp8Sums::kFp32);
  if (slot.learns_shift) y.addcmul_(inputs.sums.unsqueeze(1), of_rows(slot.beta));
  return y;
}

bool unpacks(SignProducts products) {
  return products == SignProducts::kDense || products == SignProducts::kFp8;
}

void check_sign_products(const ParameterSlot& slot) {
  if (slot.products == SignProducts::kFp8 && slot.kind == SlotKind::kPacked)
    check_fp8_widths(kFp8Signs, slot.bits.device(), slot);
}

void check_sign_products(std::string_view option, at::Device device, at::ScalarType dtype) {
  if (option == "fp8" && device.is_cuda() && dtype != at::kBFloat16)
    throw UsageError(concat("train.sign_products=fp8 gives bf16 on a GPU, found ", dtype,
                            ": set train.precision=bf16, or use dense"));
  if ((option == "tables" || option == "int8") && !takes_tables(device, dtype))
    throw UsageError(concat("train.sign_products=", option, " computes in fp32 on the CPU; found ",
                            device, " and ", dtype, ": use dense or auto"));
}

SignProducts choose_sign_products(std::string_view option, at::Device device, at::ScalarType dtype,
                                  std::int64_t hidden_size) {
  check_sign_products(option, device, dtype);
  if (option == "dense") return SignProducts::kDense;
  if (option == "auto") {
    // Measured (docs/benchmarks.md): with AVX2 tables are 1.3 to 3 times as fast as dense products,
    // with AVX-512 1.2 to 2.1 times, least in narrow models, of which filling them takes most. With
    // NEON it is twice by the counts of instructions; not measured.
    constexpr std::int64_t kWide = 256;
    const kernels::Level level = kernels::chosen_level();
    const bool faster = level == kernels::Level::kAvx512 ||
                        (level >= kernels::Level::kNeon && hidden_size >= kWide);
    return takes_tables(device, dtype) && faster ? SignProducts::kTables : SignProducts::kDense;
  }
  if (option == "fp8") {
    check_fp8(kFp8Signs, device);
    return SignProducts::kFp8;
  }
  return option == "int8" ? SignProducts::kInt8 : SignProducts::kTables;
}

}  // namespace fbi::ops
