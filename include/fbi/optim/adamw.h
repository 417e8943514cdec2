#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "fbi/config/run_config.h"
#include "fbi/distributed/communicator.h"
#include "fbi/distributed/row_exchange.h"
#include "fbi/distributed/shard_plan.h"
#include "fbi/kernels/adamw.h"
#include "fbi/ops/parameter_slot.h"

namespace fbi::optim {

/// Exchanges that AdamW::reduce_gradients has under way at once. Each holds a copy of its
/// gradients: enough to overlap, little memory.
inline constexpr std::size_t kReductionsUnderWay = 2;

/// Moments of one tensor, fp32, in its shape.
struct Moments {
  at::Tensor exp_avg;
  at::Tensor exp_avg_sq;
};

/// What the optimizer owns for one slot. Latent weight, moments and gradient of a matrix are the
/// rows of this rank (distributed::ShardPlan); vectors, scales and shifts are whole and equal on
/// all ranks.
struct SlotState {
  ops::ParameterSlot* slot = nullptr;
  distributed::RowRange rows;  ///< of a matrix that this rank owns; all of a vector
  at::Tensor latent;  ///< fp32, what AdamW updates; of a dense slot the rows of its own value
  at::Tensor grad;  ///< fp32, like latent: summed over ranks once the gradients are finished; of a
                    ///< matrix that one rank has alone undefined, slot->grad serves
  Moments moments;
  at::Tensor alpha_grad, beta_grad;  ///< packed only; of a tied alpha with the slot that owns it,
                                     ///< of beta where it is learned
  Moments alpha_moments, beta_moments;
  /// Packed: position of the state that has gradient and moments of alpha.
  std::size_t alpha_owner = 0;
  bool reduced = false;    ///< grad holds (or will hold, once waited for) all that slot->grad had
  std::int64_t flips = 0;  ///< signs changed by the last update, on all ranks

  const at::Tensor& gradient() const;  ///< what the update takes
};

/// A tensor of a checkpoint: whole and equal on all ranks, or the rows from `row_begin` on of one
/// with `total_rows`.
struct NamedTensor {
  std::string name;
  at::Tensor tensor;
  std::int64_t row_begin = 0;
  std::int64_t total_rows = -1;  ///< -1: whole
  bool repeated = false;         ///< the memory of an earlier one under another name: a tied alpha
};

/// AdamW over slots, sharded by rows over the ranks of a communicator: sums gradients over ranks,
/// applies the straight-through estimator once per step, clips by the global norm, updates latent
/// weights and scales, and writes the new working copies on all ranks (sign bits while the weights
/// are in registers; they travel packed). All methods that a step calls are collective.
class AdamW {
 public:
  /// `slots` must outlive the optimizer and have their gradients allocated, but for those on
  /// demand, which one rank alone may have.
  AdamW(const std::vector<ops::ParameterSlot*>& slots, const config::OptimizerConfig& config,
        distributed::Communicator& communicator, at::ScalarType gradient_wire_dtype = at::kFloat);

  /// Takes over the latent weight that the slot's working copy was made from (fp32, slot shape).
  void adopt_latent(ops::ParameterSlot& slot, const at::Tensor& latent);

  /// The gradients of these slots are complete, for this step or (sharded gradients) for this
  /// micro-step: starts to sum them over ranks, and zeroes them. The work goes on in the
  /// background; slots that are not announced are reduced in finish_gradients().
  void reduce_gradients(std::span<ops::ParameterSlot* const> slots);
  /// Finishes the gradients of a step (summed over ranks, tied parts added, alpha and beta
  /// gradients formed) and returns the 2-norm over all parameters, straight-through and unclipped;
  /// the same number on all ranks.
  double finish_gradients();
  /// One AdamW step with the finished gradients; counts in `updates`. `grad_norm` decides clipping.
  void update(double lr, double grad_norm);
  void zero_gradients();

  std::int64_t updates() const {
    return updates_;
  }  ///< Adam's step count, skipped steps not counted
  void set_updates(std::int64_t updates) { updates_ = updates; }
  const std::vector<SlotState>& states() const { return states_; }

  /// Everything that a checkpoint holds, under its published name (`….weight`, `….wscale`,
  /// `….wbias`) or `optimizer.exp_avg.NAME`, `optimizer.exp_avg_sq.NAME`; tensors share memory with
  /// the optimizer and the slots. A tied alpha is there under each of its names, its moments under
  /// the first.
  std::vector<NamedTensor> named_tensors() const;
  /// After named_tensors() were filled from a checkpoint: rewrites the working copies from the
  /// latent weights. Collective.
  void publish();

 private:
  SlotState make_state(ops::ParameterSlot& slot) const;
  std::size_t find_alpha_owner(const ops::ParameterSlot& slot) const;
  void allocate_replicated_gradients();
  void reduce_replicated_gradients();
  void wait_for_reductions(std::size_t left);
  SlotState& state_of(const ops::ParameterSlot& slot);
  kernels::AdamWStep step_for(ops::ParameterGroup group, double lr, double grad_scale) const;
  void form_scale_gradients(SlotState& state, double* squares);
  void update_latent(SlotState& state, double lr, double grad_scale, std::int64_t* flips);
  void update_scales(SlotState& state, double lr, double grad_scale);
  /// On the device of the gradients.
  at::Tensor zeros_per_slot(std::int64_t columns, at::ScalarType dtype) const;
  void gather_working_copies();

  config::OptimizerConfig config_;
  distributed::Communicator& communicator_;
  at::ScalarType wire_dtype_;
  std::vector<SlotState> states_;
  /// Gradients of vectors, scales and shifts: one buffer, one all_reduce.
  at::Tensor replicated_grad_;
  std::deque<std::unique_ptr<distributed::RowReduction>> reductions_;  ///< under way, oldest first
  std::int64_t updates_ = 0;
};

}  // namespace fbi::optim
