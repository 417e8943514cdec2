#include "parity/trainer_replay.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "distributed/ranks.h"
#include "fbi/config/tensor_names.h"
#include "fbi/distributed/shard_plan.h"
#include "fbi/formats/model_source.h"
#include "fbi/nn/weights.h"
#include "fbi/ops/packing.h"
#include "fbi/ops/scale_strides.h"
#include "fbi/ops/slot_ops.h"
#include "fbi/train/trainer.h"

namespace fbi::parity {
namespace {

// Divides no recording's micro-batch: the last chunk is short.
constexpr std::int64_t kLossChunkTokens = 50;

class RecordedWeights final : public formats::ModelSource {
 public:
  explicit RecordedWeights(const NamedTensors& tensors) : tensors_(tensors) {}
  std::string description() const override { return "recording"; }
  std::vector<std::string> names() const override {
    std::vector<std::string> out;
    for (const auto& entry : tensors_) out.push_back(entry.first);
    return out;
  }
  std::optional<std::vector<std::int64_t>> shape(const std::string& name) const override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) return std::nullopt;
    return found->second.sizes().vec();
  }
  void read(const std::string& name, std::span<float> out) const override {
    const at::Tensor values = tensors_.at(name).contiguous();
    std::copy_n(values.const_data_ptr<float>(), out.size(), out.begin());
  }

 private:
  const NamedTensors& tensors_;
};

config::TrainConfig train_config(const Trace& trace, const TrainerOptions& options) {
  config::TrainConfig train;
  train.seq_len = trace.seq;
  train.micro_batch = (trace.batch + options.ranks - 1) / options.ranks;
  train.global_batch = trace.batch * trace.accumulate;
  train.recompute = options.recompute;
  train.sign_products = options.sign_products;
  train.working_copy = options.working_copy;
  train.loss_chunk_tokens = kLossChunkTokens;
  return train;
}

config::OptimizerConfig optimizer_config(const Trace& trace) {
  config::OptimizerConfig out;
  if (!trace.optimizer) return out;
  const auto& o = *trace.optimizer;
  out.lr = o.lr;
  out.end_lr = o.end_lr;
  out.beta1 = o.beta1;
  out.beta2 = o.beta2;
  out.eps = o.eps;
  out.weight_decay = o.weight_decay;
  out.clip_norm = o.clip_norm;
  return out;
}

optim::Schedule schedule(const Trace& trace) {
  if (!trace.optimizer) return {};
  const auto& o = *trace.optimizer;
  return {o.lr, o.end_lr, o.warmup_micro_steps, o.total_micro_steps, trace.accumulate};
}

train::SampleReader sample_reader(const at::Tensor& tokens) {
  const at::Tensor samples = tokens.reshape({-1, tokens.size(-1)}).to(at::kInt).contiguous();
  return [samples](std::int64_t first, std::int64_t count, std::span<std::int32_t> ids) {
    const auto* begin = samples.const_data_ptr<std::int32_t>() + first * samples.size(1);
    std::copy_n(begin, count * samples.size(1), ids.begin());
  };
}

at::Tensor micro_batch_logits(nn::LlamaForCausalLM& model, const at::Tensor& ids) {
  const at::Tensor logits = model.head_logits(model.hidden_states(ids));
  return logits.view({ids.size(0), ids.size(1), model.vocab_size()});
}

/// All rows of a tensor whose rows are spread over ranks.
at::Tensor whole(distributed::Communicator& communicator, const at::Tensor& rows,
                 std::int64_t total_rows) {
  if (total_rows < 0 || communicator.size() == 1) return rows.clone();
  const distributed::ShardPlan plan(total_rows, communicator.size());
  at::Tensor block = at::zeros({plan.block_rows(), rows.size(1)}, rows.options());
  block.narrow(0, 0, rows.size(0)).copy_(rows);
  at::Tensor all = at::empty({plan.block_rows() * plan.size(), rows.size(1)}, rows.options());
  communicator.all_gather(all, block)->wait();
  return all.narrow(0, 0, total_rows).clone();
}

/// dLoss/dW = alpha·G and the scale gradients, under the published names and shapes.
NamedTensors gradients(const optim::AdamW& optimizer, distributed::Communicator& communicator) {
  NamedTensors out;
  for (const auto& state : optimizer.states()) {
    const auto& slot = *state.slot;
    if (slot.kind != ops::SlotKind::kPacked) {
      out[slot.name] = whole(communicator, state.gradient(),
                             slot.kind == ops::SlotKind::kVector ? -1 : slot.rows());
      continue;
    }
    const auto shape = ops::scale_shape(slot);
    out[slot.name] = whole(communicator, state.gradient(), slot.rows()) * slot.alpha.view(shape);
    if (slot.owns_alpha())
      out[config::scale_name(slot.name)] = state.alpha_grad.view(shape).clone();
    if (slot.learns_shift) out[config::shift_name(slot.name)] = state.beta_grad.view(shape).clone();
  }
  return out;
}

NamedTensors initial_scales(nn::LlamaForCausalLM& model, const formats::ModelSource& weights) {
  NamedTensors out;
  for (auto* slot : model.slots()) {
    if (slot->kind != ops::SlotKind::kPacked) continue;
    const at::Tensor latent = nn::read_tensor(weights, slot->name, slot->shape);
    ops::pack_signs(*slot, latent);
    ops::initial_scales(*slot, latent);
    const auto shape = ops::scale_shape(*slot);
    out[config::scale_name(slot->name)] = slot->alpha.view(shape).clone();
    out[config::shift_name(slot->name)] = slot->beta.view(shape).clone();
  }
  return out;
}

LossTerms loss_terms(const Trace& trace, const ops::LossSums& sums) {
  const auto tokens = static_cast<double>(trace.batch * trace.seq);
  LossTerms terms;
  if (trace.next_token_weight > 0) terms.next_token = sums.next_token / tokens;
  if (trace.distill_weight > 0) terms.distill = sums.distill / tokens;
  terms.loss = trace.next_token_weight * terms.next_token.value_or(0) +
               trace.distill_weight * terms.distill.value_or(0);
  return terms;
}

StepValues step_values(const Trace& trace, const train::StepMetrics& metrics) {
  StepValues values;
  values.lr = metrics.lr;
  values.grad_norm = metrics.grad_norm;
  values.grad_norm_after_clip =
      metrics.grad_norm * std::min(1.0, trace.optimizer->clip_norm / (metrics.grad_norm + 1e-6));
  std::map<std::string, std::int64_t> flips;
  for (const auto& layer : metrics.layer_flips) flips[layer.name] = layer.flips;
  for (const auto& module : trace.binarized_modules)
    values.flips.push_back(flips.at(module + ".weight"));
  return values;
}

/// Of all ranks.
ops::LossSums sum_over_ranks(distributed::Communicator& communicator, const ops::LossSums& sums) {
  at::Tensor both = at::tensor({sums.next_token, sums.distill}, at::kDouble);
  communicator.all_reduce(both, distributed::Reduce::kSum)->wait();
  return {both[0].item<double>(), both[1].item<double>()};
}

ReplayResult replay(distributed::Communicator& communicator, const Trace& trace,
                    config::Precision precision, const TrainerOptions& options) {
  const auto dtype = precision == config::Precision::kBf16 ? at::kBFloat16 : at::kFloat;
  nn::LlamaForCausalLM student(trace.student, {at::kCPU, dtype});
  student.allocate_gradients();
  std::unique_ptr<distill::Teacher> teacher;
  if (trace.teacher) {
    auto model =
        std::make_unique<nn::LlamaForCausalLM>(*trace.teacher, nn::LlamaOptions{at::kCPU, dtype});
    nn::load_weights(*model, RecordedWeights(trace.teacher_init));
    teacher = std::make_unique<distill::Teacher>(std::move(model));
  }
  const RecordedWeights weights(trace.student_init);
  formats::check_tensors(weights, student.config(), formats::Scales::kRequired);
  optim::AdamW optimizer(student.slots(), optimizer_config(trace), communicator);

  ReplayResult result;
  result.initial_scales = initial_scales(student, weights);
  nn::LoadReport report;
  for (auto* slot : student.slots())
    optimizer.adopt_latent(*slot, nn::load_slot(*slot, weights, report));

  const at::Tensor first_ids = trace.tokens.select(0, 0).slice(1, 0, trace.seq);
  result.student_logits = micro_batch_logits(student, first_ids);
  if (teacher) result.teacher_logits = micro_batch_logits(teacher->model(), first_ids);
  for (auto* slot : student.slots())
    if (trace.effective.contains(slot->name))
      result.effective[slot->name] = ops::working_weight(*slot, at::kFloat);

  const config::ObjectiveConfig objective{trace.next_token_weight, trace.distill_weight, 1.0};
  train::Trainer trainer(
      {student, teacher.get(), optimizer, communicator, sample_reader(trace.tokens)}, objective,
      train_config(trace, options), schedule(trace));
  const auto first = sum_over_ranks(communicator, ops::read_sums(trainer.micro_step(0)).front());
  optimizer.finish_gradients();
  result.first_gradients = gradients(optimizer, communicator);
  optimizer.zero_gradients();
  if (!trace.optimizer) {
    result.losses.push_back(loss_terms(trace, first));
    return result;
  }
  while (trainer.state().step * trace.accumulate < trace.micro_steps) {
    const auto metrics = trainer.step();
    for (const auto& sums : metrics.micro_losses)
      result.losses.push_back(loss_terms(trace, sum_over_ranks(communicator, sums)));
    result.steps.push_back(step_values(trace, metrics));
  }
  for (const auto& [name, tensor, row_begin, total_rows, repeated] : optimizer.named_tensors())
    if (!name.starts_with("optimizer."))
      result.final_parameters[name] = whole(communicator, tensor, total_rows);
  return result;
}

}  // namespace

std::string to_string(const TrainerOptions& options) {
  const TrainerOptions plain;
  std::string text;
  const auto add = [&](bool differs, const std::string& part) {
    if (differs) text += (text.empty() ? "" : ", ") + part;
  };
  add(options.ranks != plain.ranks, std::to_string(options.ranks) + " ranks");
  add(options.recompute, "recompute");
  add(options.sign_products != plain.sign_products, "products " + options.sign_products);
  add(options.working_copy != plain.working_copy, "working copy per " + options.working_copy);
  return text;
}

ReplayResult replay_trainer(const Trace& trace, config::Precision precision,
                            const TrainerOptions& options) {
  if (options.ranks == 1)
    return replay(*distributed::make_single_rank(), trace, precision, options);
  ReplayResult result;
  test::run_ranks_ok(options.ranks, [&](distributed::Communicator& communicator) {
    at::set_num_threads(1);
    ReplayResult own = replay(communicator, trace, precision, options);
    if (communicator.rank() == 0) result = std::move(own);
  });
  return result;
}

}  // namespace fbi::parity
