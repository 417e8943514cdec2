#include "fbi/ops/packing.h"

#include "fbi/core/error.h"
#include "fbi/kernels/binary_matrix.h"
#include "fbi/ops/parallel.h"
#include "fbi/ops/scale_strides.h"

namespace fbi::ops {
namespace {

kernels::MatrixShape checked_shape(const ParameterSlot& slot, const at::Tensor& latent) {
  if (slot.kind != SlotKind::kPacked || latent.sizes() != at::IntArrayRef(slot.shape) ||
      latent.scalar_type() != at::kFloat || !latent.is_contiguous())
    throw UsageError(concat(slot.name, ": expected a contiguous fp32 latent weight ", at::IntArrayRef(slot.shape),
                            ", found ", latent.sizes()));
  return {slot.rows(), slot.columns()};
}

}  // namespace

std::string sibling_name(const std::string& weight_name, const std::string& suffix) {
  return weight_name.substr(0, weight_name.rfind('.') + 1) + suffix;
}

void pack_signs(ParameterSlot& slot, const at::Tensor& latent) {
  const auto shape = checked_shape(slot, latent);
  kernels::pack_signs(latent.const_data_ptr<float>(), shape, slot.bits.data_ptr<std::uint8_t>(), torch_parallel_for());
}

void initial_scales(ParameterSlot& slot, const at::Tensor& latent) {
  const auto shape = checked_shape(slot, latent);
  kernels::initial_scales(latent.const_data_ptr<float>(), scale_strides(slot), shape, slot.alpha.data_ptr<float>(),
                          slot.beta.data_ptr<float>(), torch_parallel_for());
}

}  // namespace fbi::ops
