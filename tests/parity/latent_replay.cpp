#include "parity/latent_replay.h"

#include <cmath>
#include <memory>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adamw.h>

#include "fbi/core/error.h"
#include "fbi/nn/fbi_linear.h"
#include "fbi/optim/schedule.h"
#include "parity/latent_llama.h"

namespace fbi::parity {
namespace {

void load(torch::nn::Module& model, const NamedTensors& values) {
  torch::NoGradGuard no_grad;
  const auto parameters = model.named_parameters();
  for (const auto& entry : parameters) {
    const auto value = values.find(entry.key());
    if (value == values.end() || value->second.sizes() != entry.value().sizes())
      throw DataError(
          concat("the recording has no tensor ", entry.key(), " of shape ", entry.value().sizes()));
    entry.value().copy_(value->second);
  }
  if (values.size() != parameters.size())
    throw DataError(concat("the recording has ", values.size(), " tensors, the model ",
                           parameters.size(), " parameters"));
}

class LatentReplay {
 public:
  LatentReplay(const Trace& trace, config::Precision precision)
      : trace_(trace), student_(make_latent_llama(trace.student, precision)) {
    load(*student_, trace.student_init);
    const auto modules = student_->named_modules();
    for (const std::string& name : trace.binarized_modules) {
      const auto* module = modules.find(name);
      auto* layer = module == nullptr ? nullptr : (*module)->as<nn::FbiLinear>();
      if (layer == nullptr)
        throw DataError(concat("the recording binarizes ", name, ", which is no FbiLinear here"));
      binarized_.push_back(layer);
    }
    if (!trace.teacher) return;
    teacher_ = make_latent_llama(*trace.teacher, precision);
    load(*teacher_, trace.teacher_init);
  }

  ReplayResult run() {
    record_initial_scales();
    for (std::size_t i = 0; i < binarized_.size(); ++i)
      result_.effective[trace_.binarized_modules[i] + ".weight"] =
          binarized_[i]->effective_weight().detach();
    torch::optim::AdamW optimizer(student_->parameters(), adamw_options());
    for (std::int64_t m = 0; m < trace_.micro_steps; ++m) {
      micro_step(m);
      if (m == 0) result_.first_gradients = gradients();
      if (trace_.optimizer && (m + 1) % trace_.accumulate == 0) optimizer_step(optimizer, m);
    }
    if (trace_.optimizer)
      for (const auto& entry : student_->named_parameters())
        result_.final_parameters[entry.key()] = entry.value().detach();
    return result_;
  }

 private:
  /// The scales a fresh FbiLinear would form from the recorded latent weights; then the recorded
  /// ones again.
  void record_initial_scales() {
    for (std::size_t i = 0; i < binarized_.size(); ++i) {
      const std::string& name = trace_.binarized_modules[i];
      binarized_[i]->reset_scales();
      result_.initial_scales[name + ".wscale"] = binarized_[i]->wscale.detach().clone();
      if (binarized_[i]->wbias.defined())
        result_.initial_scales[name + ".wbias"] = binarized_[i]->wbias.detach().clone();
    }
    load(*student_, trace_.student_init);
  }

  torch::optim::AdamWOptions adamw_options() const {
    if (!trace_.optimizer) return {};
    const TraceOptimizer& o = *trace_.optimizer;
    return torch::optim::AdamWOptions(o.lr)
        .betas({o.beta1, o.beta2})
        .eps(o.eps)
        .weight_decay(o.weight_decay);
  }

  void micro_step(std::int64_t m) {
    const at::Tensor ids = trace_.tokens[m].slice(1, 0, trace_.seq);
    const at::Tensor labels = trace_.tokens[m].slice(1, 1, trace_.seq + 1).flatten();
    at::Tensor teacher_logits;
    if (teacher_) {
      torch::NoGradGuard no_grad;
      teacher_logits = teacher_->forward(ids).to(at::kFloat);
    }
    const at::Tensor logits = student_->forward(ids).to(at::kFloat);
    if (m == 0) {
      result_.student_logits = logits.detach();
      result_.teacher_logits = teacher_logits;
    }
    LossTerms terms;
    const at::Tensor next_token = at::cross_entropy_loss(logits.flatten(0, 1), labels);
    terms.next_token = next_token.item<double>();
    at::Tensor loss = trace_.next_token_weight * next_token;
    if (teacher_) {
      const at::Tensor distill =
          -(teacher_logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean();
      terms.distill = distill.item<double>();
      loss = loss + trace_.distill_weight * distill;
    }
    terms.loss = loss.item<double>();
    result_.losses.push_back(terms);
    (loss / static_cast<double>(trace_.accumulate)).backward();
  }

  NamedTensors gradients() const {
    NamedTensors out;
    for (const auto& entry : student_->named_parameters())
      out[entry.key()] = entry.value().grad().clone();
    return out;
  }

  double gradient_norm() const {
    double square = 0;
    for (const at::Tensor& parameter : student_->parameters())
      square += parameter.grad().to(at::kDouble).square().sum().item<double>();
    return std::sqrt(square);
  }

  void optimizer_step(torch::optim::AdamW& optimizer, std::int64_t last_micro_step) {
    const TraceOptimizer& o = *trace_.optimizer;
    const optim::Schedule schedule{o.lr, o.end_lr, o.warmup_micro_steps, o.total_micro_steps,
                                   trace_.accumulate};
    StepValues values;
    values.lr = schedule.at_micro_step(last_micro_step);
    optimizer.param_groups()[0].options().set_lr(values.lr);
    values.grad_norm = gradient_norm();
    torch::nn::utils::clip_grad_norm_(student_->parameters(), o.clip_norm);
    values.grad_norm_after_clip = gradient_norm();
    std::vector<at::Tensor> before;
    for (const nn::FbiLinearImpl* layer : binarized_) before.push_back(layer->sign_snapshot());
    optimizer.step();
    optimizer.zero_grad();
    for (std::size_t i = 0; i < binarized_.size(); ++i)
      values.flips.push_back(binarized_[i]->count_flips(before[i]));
    result_.steps.push_back(values);
  }

  const Trace& trace_;
  std::shared_ptr<CausalLm> student_, teacher_;
  std::vector<nn::FbiLinearImpl*> binarized_;  // in the order of trace_.binarized_modules
  ReplayResult result_;
};

}  // namespace

ReplayResult replay_latent(const Trace& trace, config::Precision precision) {
  return LatentReplay(trace, precision).run();
}

}  // namespace fbi::parity
