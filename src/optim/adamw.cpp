#include "fbi/optim/adamw.h"

#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "fbi/core/error.h"
#include "fbi/kernels/binary_matrix.h"
#include "fbi/ops/packing.h"
#include "fbi/ops/parallel.h"
#include "fbi/ops/scale_strides.h"

namespace fbi::optim {
namespace {

using ops::ParameterGroup;
using ops::ParameterSlot;
using ops::SlotKind;

Moments zero_moments(const at::Tensor& like) { return {at::zeros_like(like), at::zeros_like(like)}; }

kernels::MatrixShape matrix_shape(const ParameterSlot& slot) { return {slot.rows(), slot.columns()}; }

float* data(const at::Tensor& tensor) { return tensor.data_ptr<float>(); }

void update_dense(const at::Tensor& value, const Moments& moments, const at::Tensor& grad, const kernels::AdamWStep& step) {
  kernels::adamw(data(value), data(moments.exp_avg), data(moments.exp_avg_sq), data(grad), value.numel(), step,
                 ops::torch_parallel_for());
}

double square_sum(const at::Tensor& x) { return kernels::sum_of_squares(data(x), x.numel(), ops::torch_parallel_for()); }

config::GroupMultipliers multipliers(const config::OptimizerGroups& groups, ParameterGroup group) {
  switch (group) {
    case ParameterGroup::kScale: return groups.scale;
    case ParameterGroup::kNorm: return groups.norm;
    case ParameterGroup::kEmbedding: return groups.embedding;
    case ParameterGroup::kLatent: break;
  }
  return groups.latent;
}

}  // namespace

AdamW::AdamW(const std::vector<ParameterSlot*>& slots, const config::OptimizerConfig& config,
             distributed::Communicator& communicator)
    : config_(config), communicator_(communicator) {
  if (communicator_.size() != 1)
    throw UsageError(concat("optimizer: one rank expected, the communicator has ", communicator_.size()));
  for (auto* slot : slots) {
    SlotState state;
    state.slot = slot;
    if (slot->kind == SlotKind::kPacked) {
      state.latent = at::zeros_like(slot->grad);
      state.alpha_grad = at::zeros_like(slot->alpha);
      state.beta_grad = at::zeros_like(slot->beta);
      state.alpha_moments = zero_moments(slot->alpha);
      state.beta_moments = zero_moments(slot->beta);
    } else {
      state.latent = slot->value;
    }
    state.moments = zero_moments(state.latent);
    states_.push_back(std::move(state));
  }
}

void AdamW::adopt_latent(ParameterSlot& slot, const at::Tensor& latent) {
  const auto state = std::find_if(states_.begin(), states_.end(), [&](const SlotState& s) { return s.slot == &slot; });
  if (state == states_.end()) throw UsageError(concat("optimizer: ", slot.name, " is not one of its slots"));
  if (!state->latent.is_same(latent)) state->latent.copy_(latent);
}

double AdamW::finish_gradients() {
  double squares = 0;
  for (auto& state : states_) {
    ParameterSlot& slot = *state.slot;
    if (slot.tied_grad.defined()) slot.grad.add_(slot.tied_grad);
    if (slot.kind != SlotKind::kPacked) {
      squares += square_sum(slot.grad);
      continue;
    }
    squares += kernels::scale_gradients(data(slot.grad), slot.bits.const_data_ptr<std::uint8_t>(), data(slot.alpha),
                                        ops::scale_strides(slot), matrix_shape(slot), data(state.alpha_grad),
                                        data(state.beta_grad), ops::torch_parallel_for());
    squares += square_sum(state.alpha_grad) + square_sum(state.beta_grad);
  }
  return std::sqrt(squares);
}

kernels::AdamWStep AdamW::step_for(ParameterGroup group, double lr, double grad_scale) const {
  const auto factor = multipliers(config_.groups, group);
  const auto count = static_cast<double>(updates_);
  kernels::AdamWStep step;
  step.lr = lr * factor.lr;
  step.weight_decay = config_.weight_decay * factor.weight_decay;
  step.beta1 = config_.beta1;
  step.beta2 = config_.beta2;
  step.eps = config_.eps;
  step.bias_correction1 = 1.0 - std::pow(config_.beta1, count);
  step.sqrt_bias_correction2 = std::sqrt(1.0 - std::pow(config_.beta2, count));
  step.grad_scale = grad_scale;
  return step;
}

void AdamW::update_packed(SlotState& state, double lr, double grad_scale) {
  ParameterSlot& slot = *state.slot;
  // The latent gradient is alpha·G with the alpha of this step's forward: latent weights go first.
  state.flips = kernels::adamw_latent(data(state.latent), data(state.moments.exp_avg), data(state.moments.exp_avg_sq),
                                      data(slot.grad), data(slot.alpha), ops::scale_strides(slot), matrix_shape(slot),
                                      slot.bits.data_ptr<std::uint8_t>(), step_for(slot.group, lr, grad_scale),
                                      ops::torch_parallel_for());
  const auto scale_step = step_for(ParameterGroup::kScale, lr, grad_scale);
  update_dense(slot.alpha, state.alpha_moments, state.alpha_grad, scale_step);
  update_dense(slot.beta, state.beta_moments, state.beta_grad, scale_step);
}

void AdamW::update(double lr, double grad_norm) {
  // Published clipping: min(1, clip / (norm + 1e-6)).
  const double grad_scale = config_.clip_norm > 0 ? std::min(1.0, config_.clip_norm / (grad_norm + 1e-6)) : 1.0;
  ++updates_;
  for (auto& state : states_) {
    if (state.slot->kind == SlotKind::kPacked)
      update_packed(state, lr, grad_scale);
    else
      update_dense(state.latent, state.moments, state.slot->grad, step_for(state.slot->group, lr, grad_scale));
  }
}

void AdamW::zero_gradients() {
  for (auto& state : states_) {
    state.slot->grad.zero_();
    if (state.slot->tied_grad.defined()) state.slot->tied_grad.zero_();
  }
}

std::vector<std::pair<std::string, at::Tensor>> AdamW::named_tensors() const {
  std::vector<std::pair<std::string, at::Tensor>> out;
  const auto add = [&](const std::string& name, const at::Tensor& value, const Moments& moments) {
    out.emplace_back(name, value);
    out.emplace_back("optimizer.exp_avg." + name, moments.exp_avg);
    out.emplace_back("optimizer.exp_avg_sq." + name, moments.exp_avg_sq);
  };
  for (const auto& state : states_) {
    const ParameterSlot& slot = *state.slot;
    add(slot.name, state.latent, state.moments);
    if (slot.kind != SlotKind::kPacked) continue;
    const auto shape = ops::scale_shape(slot);
    const auto viewed = [&](const Moments& m) { return Moments{m.exp_avg.view(shape), m.exp_avg_sq.view(shape)}; };
    add(ops::sibling_name(slot.name, "wscale"), slot.alpha.view(shape), viewed(state.alpha_moments));
    add(ops::sibling_name(slot.name, "wbias"), slot.beta.view(shape), viewed(state.beta_moments));
  }
  return out;
}

void AdamW::publish() {
  for (auto& state : states_)
    if (state.slot->kind == SlotKind::kPacked) ops::pack_signs(*state.slot, state.latent);
}

}  // namespace fbi::optim
