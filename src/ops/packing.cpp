#include "fbi/ops/packing.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>

#include "fbi/core/error.h"
#include "fbi/kernels/binary_matrix.h"
#include "fbi/ops/parallel.h"
#include "fbi/ops/scale_strides.h"

namespace fbi::ops {
namespace {

kernels::MatrixShape checked_shape(const ParameterSlot& slot, const at::Tensor& latent) {
  if (slot.kind != SlotKind::kPacked || latent.sizes() != at::IntArrayRef(slot.shape) ||
      latent.scalar_type() != at::kFloat || !latent.is_contiguous())
    throw UsageError(concat(slot.name, ": expected a contiguous fp32 latent weight ",
                            at::IntArrayRef(slot.shape), ", found ", latent.sizes()));
  return {slot.rows(), slot.columns()};
}

/// Once, at loading: a slot on a GPU is filled through one on the processor.
template <class Fill>
bool filled_through_host(ParameterSlot& slot, const Fill& fill) {
  if (slot.bits.is_cpu()) return false;
  ParameterSlot host = slot;
  host.bits = slot.bits.cpu();
  host.alpha = slot.alpha.cpu();
  host.beta = slot.beta.cpu();
  fill(host);
  slot.unpacked_is_current = false;
  slot.bits.copy_(host.bits);
  slot.alpha.copy_(host.alpha);
  slot.beta.copy_(host.beta);
  return true;
}

}  // namespace

void pack_signs(ParameterSlot& slot, const at::Tensor& latent) {
  if (filled_through_host(slot, [&](ParameterSlot& host) { pack_signs(host, latent.cpu()); }))
    return;
  const auto shape = checked_shape(slot, latent);
  slot.unpacked_is_current = false;
  kernels::pack_signs(latent.const_data_ptr<float>(), shape, slot.bits.data_ptr<std::uint8_t>(),
                      torch_parallel_for());
}

void initial_scales(ParameterSlot& slot, const at::Tensor& latent) {
  if (filled_through_host(slot, [&](ParameterSlot& host) { initial_scales(host, latent.cpu()); }))
    return;
  const auto shape = checked_shape(slot, latent);
  slot.unpacked_is_current = false;
  const auto* values = latent.const_data_ptr<float>();
  const at::Tensor alpha = slot.owns_alpha() ? slot.alpha : at::empty_like(slot.alpha);
  if (slot.learns_shift) {
    kernels::initial_scales(values, scale_strides(slot), shape, alpha.data_ptr<float>(),
                            slot.beta.data_ptr<float>(), torch_parallel_for());
  } else {
    at::Tensor sums = at::empty_like(slot.beta);  // not needed; those of s·W = |W| are
    kernels::scale_gradients(values, slot.bits.const_data_ptr<std::uint8_t>(),
                             slot.beta.const_data_ptr<float>(), scale_strides(slot), shape,
                             alpha.data_ptr<float>(), sums.data_ptr<float>(), torch_parallel_for());
    alpha.div_(static_cast<double>(shape.rows));
  }
  if (slot.owns_alpha()) return;
  const auto before = static_cast<double>(slot.alpha_rows_before),
             own = static_cast<double>(shape.rows);
  slot.alpha.mul_(before / (before + own)).add_(alpha, own / (before + own));
}

}  // namespace fbi::ops
