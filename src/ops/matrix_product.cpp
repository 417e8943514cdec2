#include "fbi/ops/matrix_product.h"

#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>

#include <optional>
#include <string_view>

namespace fbi::ops {
namespace {

using LinearPointwise = at::Tensor(const at::Tensor&, const at::Tensor&,
                                   const std::optional<at::Tensor>&, std::string_view,
                                   c10::List<std::optional<at::Scalar>>,
                                   std::optional<std::string_view>);

/// LibTorch's entry to oneDNN's product for ordinary tensors, x wᵀ; null in a LibTorch without
/// oneDNN.
const std::optional<c10::TypedOperatorHandle<LinearPointwise>>& onednn() {
  static const auto handle = [] {
    const auto found = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    return found ? std::optional(found->typed<LinearPointwise>()) : std::nullopt;
  }();
  return handle;
}

}  // namespace

at::Tensor matrix_product(const at::Tensor& a, const at::Tensor& b) {
  const at::NoGradGuard no_grad;
  if (!a.is_cpu() || a.scalar_type() != at::kFloat || a.numel() == 0 || !onednn())
    return at::mm(a, b);
  return onednn()->call(a, b.t(), std::nullopt, "none", c10::List<std::optional<at::Scalar>>(), "");
}

}  // namespace fbi::ops
