#include "ops/sign_products.h"

#include <ATen/ops/empty.h>

#include <span>
#include <vector>

#include "fbi/core/error.h"
#include "fbi/kernels/dispatch.h"
#include "fbi/kernels/gemv.h"
#include "fbi/ops/parallel.h"
#include "fbi/ops/scale_strides.h"
#include "fbi/ops/sign_products.h"

namespace fbi::ops {
namespace {

/// Below, taking the signs apart costs more than the products.
constexpr std::int64_t kFewTokens = 32;

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
  return slot.products != SignProducts::kDense && slot.kind == SlotKind::kPacked &&
         slot.rounding == at::kFloat && dtype == at::kFloat && tokens >= kFewTokens;
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

SignProducts choose_sign_products(std::string_view option, at::Device device, at::ScalarType dtype,
                                  std::int64_t hidden_size) {
  const bool possible = device.is_cpu() && dtype == at::kFloat;
  if (option == "dense") return SignProducts::kDense;
  if (option == "auto") {
    // Measured (docs/benchmarks.md): with AVX-512 look-ups are two to three times as fast as dense
    // products, with AVX2 about twice, less what their tables take, which is more in narrow models.
    constexpr std::int64_t kWide = 256;
    const kernels::Level level = kernels::chosen_level();
    const bool faster = level == kernels::Level::kAvx512 ||
                        (level == kernels::Level::kAvx2 && hidden_size >= kWide);
    return possible && faster ? SignProducts::kTables : SignProducts::kDense;
  }
  if (!possible) {
    throw UsageError(concat("train.sign_products=", option, " computes in fp32 on the CPU; found ",
                            device, " and ", dtype, ": use dense or auto"));
  }
  return option == "int8" ? SignProducts::kInt8 : SignProducts::kTables;
}

}  // namespace fbi::ops
