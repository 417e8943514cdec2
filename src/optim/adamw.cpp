#include "fbi/optim/adamw.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "fbi/config/tensor_names.h"
#include "fbi/core/error.h"
#include "fbi/ops/packing.h"
#include "fbi/ops/scale_strides.h"
#include "fbi/ops/update.h"

namespace fbi::optim {
namespace {

using ops::ParameterGroup;
using ops::ParameterSlot;
using ops::SlotKind;

Moments zero_moments(const at::Tensor& like) {
  return {at::zeros_like(like), at::zeros_like(like)};
}

float* data(const at::Tensor& tensor) {
  return tensor.data_ptr<float>();
}

void update_dense(const at::Tensor& value, const Moments& moments, const at::Tensor& grad,
                  const kernels::AdamWStep& step) {
  ops::adamw(value, moments.exp_avg, moments.exp_avg_sq, grad, step);
}

/// Of a tensor laid out like alpha: where the part of this rank's rows begins.
float* scale_part(const SlotState& state, const at::Tensor& scales) {
  return data(scales) + (state.slot->pattern == ops::ScalePattern::kRow ? state.rows.begin : 0);
}

/// The rows of a packed slot that this rank owns.
ops::SlotRows rows_of(const SlotState& state) {
  const ParameterSlot& slot = *state.slot;
  return {slot.bits.device(),
          slot.bits.data_ptr<std::uint8_t>() + state.rows.begin * slot.bits.size(1),
          scale_part(state, slot.alpha),
          ops::scale_strides(slot),
          {state.rows.rows(), slot.columns()}};
}

config::GroupMultipliers multipliers(const config::OptimizerGroups& groups, ParameterGroup group) {
  switch (group) {
    case ParameterGroup::kScale:
      return groups.scale;
    case ParameterGroup::kNorm:
      return groups.norm;
    case ParameterGroup::kEmbedding:
      return groups.embedding;
    case ParameterGroup::kLatent:
      break;
  }
  return groups.latent;
}

/// matrices [slots] and, of every slot, vector or alpha, and beta [slots, 2]; added slot by slot.
double sum_of(const at::Tensor& matrices, const at::Tensor& replicated) {
  const auto *matrix = matrices.const_data_ptr<double>(),
             *own = replicated.const_data_ptr<double>();
  double sum = 0;
  for (std::int64_t i = 0; i < matrices.numel(); ++i) {
    sum += matrix[i];
    sum += own[2 * i] + own[2 * i + 1];
  }
  return sum;
}

}  // namespace

SlotState AdamW::make_state(ParameterSlot& slot) const {
  SlotState state;
  state.slot = &slot;
  const bool sharded = communicator_.size() > 1 && slot.kind != SlotKind::kVector;
  state.rows = {0, slot.rows()};
  if (sharded)
    state.rows = distributed::range(slot.rows(), communicator_.rank(), communicator_.size());
  if (slot.kind == SlotKind::kPacked) {
    state.latent = at::zeros({state.rows.rows(), slot.columns()},
                             at::TensorOptions().dtype(at::kFloat).device(slot.bits.device()));
    if (slot.owns_alpha()) state.alpha_moments = zero_moments(slot.alpha);
    if (slot.learns_shift) state.beta_moments = zero_moments(slot.beta);
  } else {
    state.latent = slot.value.narrow(0, state.rows.begin, state.rows.rows());
  }
  if (sharded) state.grad = at::zeros_like(state.latent);
  state.moments = zero_moments(state.latent);
  return state;
}

AdamW::AdamW(const std::vector<ParameterSlot*>& slots, const config::OptimizerConfig& config,
             distributed::Communicator& communicator, at::ScalarType gradient_wire_dtype)
    : config_(config), communicator_(communicator), wire_dtype_(gradient_wire_dtype) {
  for (auto* slot : slots) {
    states_.push_back(make_state(*slot));
    states_.back().alpha_owner = find_alpha_owner(*slot);
  }
  allocate_replicated_gradients();
}

const at::Tensor& SlotState::gradient() const {
  return grad.defined() ? grad : slot->grad;
}

/// A slot with an alpha of its own is behind no other that uses it.
std::size_t AdamW::find_alpha_owner(const ParameterSlot& slot) const {
  if (slot.kind != SlotKind::kPacked || slot.owns_alpha()) return states_.size() - 1;
  const auto owner = std::find_if(states_.begin(), states_.end(), [&](const SlotState& s) {
    return s.slot->kind == SlotKind::kPacked && s.slot->owns_alpha() &&
           s.slot->alpha.is_same(slot.alpha);
  });
  if (owner == states_.end())
    throw UsageError(
        concat("optimizer: the slot whose alpha ", slot.name, " uses is not before it"));
  return static_cast<std::size_t>(owner - states_.begin());
}

void AdamW::allocate_replicated_gradients() {
  std::vector<std::pair<at::Tensor*, std::int64_t>> parts;
  for (auto& state : states_) {
    const ParameterSlot& slot = *state.slot;
    if (slot.kind == SlotKind::kVector) parts.emplace_back(&state.grad, slot.rows());
    if (slot.kind != SlotKind::kPacked) continue;
    if (slot.owns_alpha()) parts.emplace_back(&state.alpha_grad, slot.alpha.numel());
    if (slot.learns_shift) parts.emplace_back(&state.beta_grad, slot.beta.numel());
  }
  std::int64_t count = 0;
  for (const auto& part : parts) count += part.second;
  replicated_grad_ =
      at::zeros({count}, at::TensorOptions().dtype(at::kFloat).device(communicator_.device()));
  count = 0;
  for (auto& [tensor, length] : parts) {
    *tensor = replicated_grad_.narrow(0, count, length);
    count += length;
  }
}

SlotState& AdamW::state_of(const ParameterSlot& slot) {
  const auto state = std::find_if(states_.begin(), states_.end(),
                                  [&](const SlotState& s) { return s.slot == &slot; });
  if (state == states_.end())
    throw UsageError(concat("optimizer: ", slot.name, " is not one of its slots"));
  return *state;
}

void AdamW::adopt_latent(ParameterSlot& slot, const at::Tensor& latent) {
  const SlotState& state = state_of(slot);
  const at::Tensor own = latent.narrow(0, state.rows.begin, state.rows.rows());
  if (own.data_ptr() != state.latent.data_ptr()) state.latent.copy_(own);
}

void AdamW::reduce_gradients(std::span<ParameterSlot* const> slots) {
  std::vector<distributed::RowExchangePart> parts;
  for (auto* slot : slots) {
    if (slot->kind == SlotKind::kVector) continue;
    if (slot->tied_grad.defined()) {
      slot->grad.add_(slot->tied_grad);
      slot->tied_grad.zero_();
    }
    SlotState& state = state_of(*slot);
    state.reduced = true;
    if (communicator_.size() > 1) parts.push_back({slot->grad, state.grad});
  }
  if (parts.empty()) return;
  wait_for_reductions(kReductionsUnderWay - 1);
  reductions_.push_back(
      std::make_unique<distributed::RowReduction>(communicator_, parts, wire_dtype_));
  for (auto& part : parts) part.whole.zero_();
}

void AdamW::wait_for_reductions(std::size_t left) {
  while (reductions_.size() > left) {
    reductions_.front()->finish();
    reductions_.pop_front();
  }
}

/// Each rank has the part of its own rows (scales) or of its own samples (vectors).
void AdamW::reduce_replicated_gradients() {
  for (auto& state : states_)
    if (state.slot->kind == SlotKind::kVector) state.grad.copy_(state.slot->grad);
  communicator_
      .all_reduce(replicated_grad_, distributed::Reduce::kSum, distributed::Payload::kScales)
      ->wait();
}

double AdamW::finish_gradients() {
  for (auto& state : states_)
    if (!state.reduced) reduce_gradients(std::span(&state.slot, 1));
  wait_for_reductions(0);

  // Squares of matrices are sums over this rank's rows, in double; scales and vectors count once.
  // They are read when all are formed: a GPU is waited for once.
  at::Tensor matrix_squares = zeros_per_slot(1, at::kDouble);
  const at::Tensor replicated_squares = zeros_per_slot(2, at::kDouble);
  replicated_grad_.zero_();
  auto* squares = matrix_squares.data_ptr<double>();
  for (std::size_t i = 0; i < states_.size(); ++i) {
    SlotState& state = states_[i];
    if (state.slot->kind == SlotKind::kDense) ops::sum_of_squares(state.gradient(), squares + i);
    if (state.slot->kind == SlotKind::kPacked) form_scale_gradients(state, squares + i);
  }
  reduce_replicated_gradients();
  communicator_.all_reduce(matrix_squares, distributed::Reduce::kSum)->wait();
  auto* replicated = replicated_squares.data_ptr<double>();
  for (std::size_t i = 0; i < states_.size(); ++i) {
    const SlotState& state = states_[i];
    if (state.slot->kind == SlotKind::kVector) ops::sum_of_squares(state.grad, replicated + 2 * i);
    if (state.slot->kind != SlotKind::kPacked) continue;
    if (state.slot->owns_alpha()) ops::sum_of_squares(state.alpha_grad, replicated + 2 * i);
    if (state.slot->learns_shift) ops::sum_of_squares(state.beta_grad, replicated + 2 * i + 1);
  }
  return std::sqrt(sum_of(matrix_squares.cpu(), replicated_squares.cpu()));
}

/// Of this rank's rows. The gradient of a tied alpha is the sum over its slots, which come after
/// its owner.
void AdamW::form_scale_gradients(SlotState& state, double* squares) {
  const ParameterSlot& slot = *state.slot;
  const at::Tensor alpha_grad = slot.owns_alpha() ? state.alpha_grad : at::empty_like(slot.alpha);
  const at::Tensor beta_grad = slot.learns_shift ? state.beta_grad : at::empty_like(slot.beta);
  ops::scale_gradients(rows_of(state), state.gradient(), scale_part(state, alpha_grad),
                       scale_part(state, beta_grad), squares);
  if (!slot.owns_alpha()) states_[state.alpha_owner].alpha_grad.add_(alpha_grad);
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

void AdamW::update_latent(SlotState& state, double lr, double grad_scale, std::int64_t* flips) {
  ops::adamw_latent(rows_of(state), state.latent, state.moments.exp_avg, state.moments.exp_avg_sq,
                    state.gradient(), step_for(state.slot->group, lr, grad_scale), flips);
}

void AdamW::update_scales(SlotState& state, double lr, double grad_scale) {
  const ParameterSlot& slot = *state.slot;
  const auto step = step_for(ParameterGroup::kScale, lr, grad_scale);
  if (slot.owns_alpha()) update_dense(slot.alpha, state.alpha_moments, state.alpha_grad, step);
  if (slot.learns_shift) update_dense(slot.beta, state.beta_moments, state.beta_grad, step);
}

void AdamW::update(double lr, double grad_norm) {
  // Published clipping: min(1, clip / (norm + 1e-6)).
  const double grad_scale =
      config_.clip_norm > 0 ? std::min(1.0, config_.clip_norm / (grad_norm + 1e-6)) : 1.0;
  ++updates_;
  at::Tensor flips = zeros_per_slot(1, at::kLong);
  for (std::size_t i = 0; i < states_.size(); ++i) {
    SlotState& state = states_[i];
    if (state.slot->kind == SlotKind::kPacked)
      update_latent(state, lr, grad_scale, flips.data_ptr<std::int64_t>() + i);
    else
      update_dense(state.latent, state.moments, state.gradient(),
                   step_for(state.slot->group, lr, grad_scale));
  }
  // The latent gradient is alpha·G with the alpha of this step's forward, which slots may share:
  // all latent weights go first.
  for (auto& state : states_)
    if (state.slot->kind == SlotKind::kPacked) update_scales(state, lr, grad_scale);
  communicator_.all_reduce(flips, distributed::Reduce::kSum)->wait();
  gather_working_copies();
  flips = flips.cpu();  // waits for a GPU
  for (std::size_t i = 0; i < states_.size(); ++i)
    states_[i].flips = flips.const_data_ptr<std::int64_t>()[i];
}

at::Tensor AdamW::zeros_per_slot(std::int64_t columns, at::ScalarType dtype) const {
  return at::zeros({static_cast<std::int64_t>(states_.size()), columns},
                   at::TensorOptions(dtype).device(communicator_.device()));
}

void AdamW::gather_working_copies() {
  std::vector<distributed::RowExchangePart> bits;
  std::vector<distributed::RowGather> values;
  for (auto& state : states_) {
    ParameterSlot& slot = *state.slot;
    slot.unpacked_is_current = false;
    if (slot.kind == SlotKind::kPacked)
      bits.push_back({slot.bits, slot.bits.narrow(0, state.rows.begin, state.rows.rows())});
    if (slot.kind != SlotKind::kDense) continue;
    std::vector<distributed::RowExchangePart> matrix(1, {slot.value, state.latent});
    values.emplace_back(communicator_, std::move(matrix), distributed::Payload::kValues);
  }
  distributed::RowGather(communicator_, bits, distributed::Payload::kBits).finish();
  for (auto& value : values) value.finish();
}

void AdamW::zero_gradients() {
  for (auto& state : states_) {
    ParameterSlot& slot = *state.slot;
    const bool sharded = communicator_.size() > 1 && slot.kind != SlotKind::kVector;
    if (slot.grad_on_demand)
      slot.grad.reset();
    else if (!sharded || !state.reduced)  // else it is 0 already
      slot.grad.zero_();
    if (slot.tied_grad.defined()) slot.tied_grad.zero_();
    if (sharded) state.grad.zero_();
    state.reduced = false;
  }
}

std::vector<NamedTensor> AdamW::named_tensors() const {
  std::vector<NamedTensor> out;
  const auto add = [&](const NamedTensor& value, const Moments& moments) {
    out.push_back(value);
    out.push_back(
        {"optimizer.exp_avg." + value.name, moments.exp_avg, value.row_begin, value.total_rows});
    out.push_back({"optimizer.exp_avg_sq." + value.name, moments.exp_avg_sq, value.row_begin,
                   value.total_rows});
  };
  for (const auto& state : states_) {
    const ParameterSlot& slot = *state.slot;
    const bool whole = slot.kind == SlotKind::kVector || communicator_.size() == 1;
    add({slot.name, state.latent, whole ? 0 : state.rows.begin, whole ? -1 : slot.rows()},
        state.moments);
    if (slot.kind != SlotKind::kPacked) continue;
    const auto shape = ops::scale_shape(slot);
    const auto viewed = [&](const Moments& m) {
      return Moments{m.exp_avg.view(shape), m.exp_avg_sq.view(shape)};
    };
    const NamedTensor alpha{config::scale_name(slot.name), slot.alpha.view(shape), 0, -1,
                            !slot.owns_alpha()};
    // A tied scale is there under every name, for readers that know none.
    if (slot.owns_alpha())
      add(alpha, viewed(state.alpha_moments));
    else
      out.push_back(alpha);
    if (slot.learns_shift)
      add({config::shift_name(slot.name), slot.beta.view(shape)}, viewed(state.beta_moments));
  }
  return out;
}

void AdamW::publish() {
  for (auto& state : states_) {
    if (state.slot->kind != SlotKind::kPacked) continue;
    ops::pack_signs(rows_of(state), state.latent);
  }
  gather_working_copies();
}

}  // namespace fbi::optim
