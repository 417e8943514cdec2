#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "fbi/config/run_config.h"
#include "fbi/distributed/communicator.h"
#include "fbi/kernels/adamw.h"
#include "fbi/ops/parameter_slot.h"

namespace fbi::optim {

/// Moments of one tensor, fp32, in its shape.
struct Moments {
  at::Tensor exp_avg;
  at::Tensor exp_avg_sq;
};

/// What the optimizer owns for one slot. `latent` is the fp32 weight that AdamW updates: for packed slots the only copy, for dense
/// fp32 ones the slot's own value.
struct SlotState {
  ops::ParameterSlot* slot = nullptr;
  at::Tensor latent;
  Moments moments;
  at::Tensor alpha_grad, beta_grad;  ///< packed only
  Moments alpha_moments, beta_moments;
  std::int64_t flips = 0;            ///< signs changed by the last update
};

/// AdamW over slots: applies the straight-through estimator once per step, clips by the global norm, updates latent weights and scales,
/// and writes the new working copies (sign bits while the weights are in registers).
class AdamW {
 public:
  /// `slots` must outlive the optimizer and have their gradients allocated.
  AdamW(const std::vector<ops::ParameterSlot*>& slots, const config::OptimizerConfig& config,
        distributed::Communicator& communicator);

  /// Takes over the latent weight that the slot's working copy was made from (fp32, slot shape).
  void adopt_latent(ops::ParameterSlot& slot, const at::Tensor& latent);

  /// Finishes the gradients of a step (tied parts added, alpha and beta gradients formed) and returns the 2-norm over all
  /// parameters, straight-through and unclipped.
  double finish_gradients();
  /// One AdamW step with the finished gradients; counts in `updates`. `grad_norm` decides clipping.
  void update(double lr, double grad_norm);
  void zero_gradients();

  std::int64_t updates() const { return updates_; }  ///< Adam's step count, skipped steps not counted
  void set_updates(std::int64_t updates) { updates_ = updates; }
  const std::vector<SlotState>& states() const { return states_; }

  /// Everything that a checkpoint holds, under its published name (`….weight`, `….wscale`, `….wbias`) or
  /// `optimizer.exp_avg.NAME`, `optimizer.exp_avg_sq.NAME`; tensors share memory with the optimizer and the slots.
  std::vector<std::pair<std::string, at::Tensor>> named_tensors() const;
  /// After named_tensors() were filled from a checkpoint: rewrites the working copies from the latent weights.
  void publish();

 private:
  kernels::AdamWStep step_for(ops::ParameterGroup group, double lr, double grad_scale) const;
  void update_packed(SlotState& state, double lr, double grad_scale);

  config::OptimizerConfig config_;
  distributed::Communicator& communicator_;
  std::vector<SlotState> states_;
  std::int64_t updates_ = 0;
};

}  // namespace fbi::optim
