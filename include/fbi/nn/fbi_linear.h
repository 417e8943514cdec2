#pragma once

#include <cstdint>
#include <iosfwd>
#include <memory>

#include <torch/arg.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

#include "fbi/ops/parameter_slot.h"

namespace torch::nn {
class LinearImpl;
}

namespace fbi::nn {

struct FbiLinearOptions {
  FbiLinearOptions(std::int64_t in_features, std::int64_t out_features)
      : in_features_(in_features), out_features_(out_features) {}

  TORCH_ARG(std::int64_t, in_features);
  TORCH_ARG(std::int64_t, out_features);
  /// Granularity of wscale and wbias; training uses column.
  TORCH_ARG(ops::ScalePattern, pattern) = ops::ScalePattern::kColumn;
  /// False: there is no wbias, W~ = wscale · sign(weight).
  TORCH_ARG(bool, shift) = true;
};

/// A fully binarized linear layer (paper §3.1) as an ordinary module: y = x W~ᵀ, W~ = wscale ·
/// sign(weight) + wbias, no additive output bias. Any optimizer can train its parameters; the
/// gradient passes the sign unchanged (ops/binarize.h). This is the readable reference of the
/// packed form that the trainer uses.
class FbiLinearImpl : public torch::nn::Cloneable<FbiLinearImpl> {
 public:
  FbiLinearImpl(std::int64_t in_features, std::int64_t out_features)
      : FbiLinearImpl(FbiLinearOptions(in_features, out_features)) {}
  /// Throws UsageError unless both sizes are positive.
  explicit FbiLinearImpl(const FbiLinearOptions& options_);

  /// Takes over the weight of a dense layer (copied) and forms the scales from it. Throws
  /// UsageError for a layer with an additive bias, which this layer has not; binarize_linear_layers
  /// keeps such a bias.
  static std::shared_ptr<FbiLinearImpl> from_linear(
      const torch::nn::LinearImpl& linear, ops::ScalePattern pattern = ops::ScalePattern::kColumn);

  void reset() override;
  /// weight normal(0, stddev), then reset_scales.
  void reset_parameters(double stddev = 0.02);
  /// wbias = mean of weight (0 without a shift), wscale = mean of |weight - wbias|, along the
  /// pattern; of a shared scale the owner's changes, too.
  void reset_scales();
  /// Uses the wscale of another layer in place of its own, which is no parameter any more: its
  /// gradient is the sum of both layers'. Such a layer has no clone(). Throws UsageError when the
  /// shapes differ.
  void share_scale(const FbiLinearImpl& owner);
  void pretty_print(std::ostream& stream) const override;

  /// x [..., I] -> [..., O]. For bf16 or fp16 x, W~ is formed in the parameters' dtype and rounded
  /// once.
  at::Tensor forward(const at::Tensor& x);
  /// W~ [O, I] with its graph, in the parameters' dtype.
  at::Tensor effective_weight() const;

  /// weight > 0, bool [O, I], to be passed to count_flips later.
  at::Tensor sign_snapshot() const;
  /// Weights whose `weight > 0` differs from the snapshot.
  std::int64_t count_flips(const at::Tensor& earlier) const;

  FbiLinearOptions options;
  at::Tensor weight;  ///< latent, [O, I]
  at::Tensor wscale;  ///< alpha: [1, I], [O, 1] or []
  at::Tensor wbias;   ///< beta, like wscale; undefined without a shift
};

TORCH_MODULE(FbiLinear);

}  // namespace fbi::nn
