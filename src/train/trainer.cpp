#include "fbi/train/trainer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "fbi/core/error.h"
#include "fbi/data/batcher.h"
#include "fbi/ops/sign_products.h"
#include "fbi/ops/slot_ops.h"

namespace fbi::train {
namespace {

std::int64_t ceil_divide(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

Trainer::Trainer(TrainerParts parts, const config::ObjectiveConfig& objective,
                 const config::TrainConfig& train, const optim::Schedule& schedule,
                 bool shard_gradients)
    : parts_(std::move(parts)),
      objective_(objective, train.loss_chunk_tokens),
      train_(train),
      schedule_(schedule),
      pass_(parts_.student, train.recompute),
      micro_steps_(ceil_divide(train.global_batch, train.micro_batch * parts_.communicator.size())),
      shard_gradients_(shard_gradients),
      timeline_(parts_.student.options().device) {
  if (objective_.needs_teacher() && !parts_.teacher)
    throw UsageError("objective.distill > 0 needs a teacher");
  const auto& options = parts_.student.options();
  const auto products =
      ops::choose_sign_products(train.sign_products, options.device, options.compute_dtype,
                                parts_.student.config().hidden_size);
  const bool keep = ops::unpacks(products) && train.working_copy == "step";
  for (ops::ParameterSlot* slot : parts_.student.slots()) {
    slot->products = products;
    ops::check_sign_products(*slot);
    if (keep && slot->kind == ops::SlotKind::kPacked)
      ops::keep_unpacked(*slot, options.compute_dtype);
  }
}

void Trainer::set_state(const TrainState& state) {
  state_ = state;
  parts_.optimizer.set_updates(state.updates);
}

StepMetrics Trainer::step() {
  const auto whole = timeline_.span(Phase::kOther, "step", state_.step + 1);
  StepMetrics metrics;
  metrics.step = state_.step + 1;
  metrics.lr = schedule_.at_step(state_.step);
  metrics.sample_first = state_.position;
  metrics.sample_count = train_.global_batch;

  const distributed::Traffic sent_before = parts_.communicator.traffic();
  std::vector<at::Tensor> micro_sums;
  at::Tensor sums = at::zeros(
      {2}, at::TensorOptions().dtype(at::kDouble).device(parts_.student.options().device));
  for (std::int64_t index = 0; index < micro_steps_; ++index)
    sums.add_(micro_sums.emplace_back(micro_step(index)));
  auto phase = timeline_.span(Phase::kReduce);
  parts_.communicator.all_reduce(sums, distributed::Reduce::kSum)->wait();
  metrics.grad_norm = parts_.optimizer.finish_gradients();  // the first number that is waited for
  report_losses(metrics, sums, micro_sums);
  // Both numbers are sums over all ranks, so that all ranks decide alike.
  metrics.skipped = !std::isfinite(metrics.loss) || !std::isfinite(metrics.grad_norm);
  phase.next(Phase::kUpdate);
  if (!metrics.skipped) {
    parts_.optimizer.update(metrics.lr, metrics.grad_norm);
    report_flips(metrics);
  }
  parts_.optimizer.zero_gradients();

  state_.step += 1;
  state_.updates = parts_.optimizer.updates();
  state_.tokens += train_.global_batch * train_.seq_len;
  state_.position += train_.global_batch;
  state_.skipped += metrics.skipped;
  state_.skipped_in_row = metrics.skipped ? state_.skipped_in_row + 1 : 0;
  metrics.tokens = state_.tokens;
  for (std::size_t i = 0; i < distributed::kPayloads; ++i)
    metrics.bytes_sent[i] = parts_.communicator.traffic()[i] - sent_before[i];
  return metrics;
}

at::Tensor Trainer::micro_step(std::int64_t index) {
  const auto whole = timeline_.span(Phase::kOther, "micro-step", index);
  auto phase = timeline_.span(Phase::kData);
  auto range = data::micro_batch_range(state_.position, index, parts_.communicator.rank(),
                                       parts_.communicator.size(), train_.micro_batch);
  // Configurations of runs divide evenly; of a batch that does not, the last parts are short.
  range.count =
      std::clamp<std::int64_t>(state_.position + train_.global_batch - range.first, 0, range.count);
  const at::Device device = parts_.student.options().device;
  // From pinned memory a GPU fetches them when it comes to it; from other memory it would be waited
  // for.
  at::Tensor ids = at::empty({range.count, train_.seq_len + 1},
                             at::TensorOptions().dtype(at::kInt).pinned_memory(device.is_cuda()));
  parts_.read_samples(range.first, range.count,
                      {ids.data_ptr<std::int32_t>(), static_cast<std::size_t>(ids.numel())});
  ids = ids.to(device, /*non_blocking=*/true);
  const at::Tensor inputs = ids.slice(1, 0, train_.seq_len).to(at::kLong);
  const at::Tensor targets = ids.slice(1, 1, train_.seq_len + 1).reshape(-1);

  phase.next(Phase::kTeacher);
  const at::Tensor teacher_hidden =
      objective_.needs_teacher() ? parts_.teacher->hidden_states(inputs) : at::Tensor();
  phase.next(Phase::kForward);
  const at::Tensor hidden =
      pass_.forward(inputs, [&](std::int64_t stage) { timeline_.part("stage", stage); });
  phase.next(Phase::kLoss);
  const double grad_scale = 1.0 / static_cast<double>(train_.global_batch * train_.seq_len);
  const auto result = objective_.run(
      parts_.student, hidden, objective_.needs_teacher() ? &parts_.teacher->model() : nullptr,
      teacher_hidden, targets, grad_scale);

  phase.next(Phase::kBackward);
  // Gradients travel as soon as they are complete, while backward goes on.
  const bool complete = shard_gradients_ || index + 1 == micro_steps_;
  const auto reduce = [&](std::vector<ops::ParameterSlot*> slots) {
    if (!complete) return;
    const auto reducing = timeline_.span(Phase::kReduce);
    parts_.optimizer.reduce_gradients(slots);
  };
  nn::LlamaForCausalLM& student = parts_.student;
  if (!student.config().tie_word_embeddings) reduce({&student.head()});
  pass_.backward(result.dhidden, [&](std::int64_t stage) {
    timeline_.part("stage", stage);
    reduce(student.stage_slots(stage));
  });
  reduce({&student.embedding()});
  return result.sums;
}

void Trainer::report_losses(StepMetrics& metrics, const at::Tensor& sums,
                            const std::vector<at::Tensor>& micro_sums) const {
  const auto tokens = train_.global_batch * train_.seq_len;
  const ops::LossSums all = ops::read_sums(sums).front();
  metrics.loss = objective_.loss(all, tokens);
  metrics.loss_next_token = all.next_token / static_cast<double>(tokens);
  metrics.loss_distill = all.distill / static_cast<double>(tokens);
  metrics.micro_losses = ops::read_sums(at::stack(micro_sums));
}

void Trainer::report_flips(StepMetrics& metrics) const {
  std::int64_t weights = 0;
  for (const auto& state : parts_.optimizer.states()) {
    if (state.slot->kind != ops::SlotKind::kPacked) continue;
    const LayerFlips layer{state.slot->name, state.flips,
                           state.slot->rows() * state.slot->columns()};
    metrics.flips += layer.flips;
    weights += layer.weights;
    metrics.layer_flips.push_back(layer);
  }
  metrics.flip_rate =
      weights ? static_cast<double>(metrics.flips) / static_cast<double>(weights) : 0.0;
}

}  // namespace fbi::train
