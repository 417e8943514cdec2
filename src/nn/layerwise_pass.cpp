#include "fbi/nn/layerwise_pass.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

namespace fbi::nn {

at::Tensor LayerwisePass::forward(const at::Tensor& ids,
                                  const std::function<void(std::int64_t)>& stage_done) {
  ids_ = ids;
  rotary_ = model_.rotary(0, ids.size(1));
  inputs_.clear();
  outputs_.clear();
  const at::AutoGradMode keep_graph(!recompute_);
  at::Tensor x = model_.embed(ids);
  for (std::int64_t stage = 0; stage < model_.stage_count(); ++stage) {
    inputs_.push_back(x.detach().requires_grad_(!recompute_));
    x = model_.forward_stage(stage, inputs_.back(), rotary_);
    if (!recompute_) outputs_.push_back(x);
    if (stage_done) stage_done(stage);
  }
  return x.detach();
}

void LayerwisePass::backward(const at::Tensor& dhidden,
                             const std::function<void(std::int64_t)>& stage_done) {
  at::Tensor gradient = dhidden;
  for (std::int64_t stage = model_.stage_count() - 1; stage >= 0; --stage) {
    at::Tensor input = std::move(inputs_.back());
    inputs_.pop_back();
    at::Tensor output;
    if (recompute_) {
      const at::AutoGradMode build_graph(true);
      input = input.detach().requires_grad_(true);
      output = model_.forward_stage(stage, input, rotary_);
    } else {
      output = std::move(outputs_.back());
      outputs_.pop_back();
    }
    torch::autograd::backward({output}, {gradient});
    gradient = input.grad();
    if (stage_done) stage_done(stage);
  }
  model_.embedding_backward(ids_, gradient);
}

}  // namespace fbi::nn
