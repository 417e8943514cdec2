#pragma once

#include <functional>
#include <vector>

#include "fbi/nn/llama.h"

namespace fbi::nn {

/// Forward and backward of one micro-step, stage by stage (embedding, L decoder layers, final
/// norm). The gradient of a layer is complete at a known time, and only stage inputs need to live
/// between forward and backward. Bit-equal to autograd over the whole model, with and without
/// recompute.
class LayerwisePass {
 public:
  /// recompute: keep only the input of each stage and run its forward again in backward.
  LayerwisePass(LlamaForCausalLM& model, bool recompute) : model_(model), recompute_(recompute) {}

  /// ids int64 [B, S] -> hidden states after the final norm, fp32 [B, S, D], cut from the graph.
  /// `stage_done(stage)` runs after each stage.
  at::Tensor forward(const at::Tensor& ids,
                     const std::function<void(std::int64_t)>& stage_done = {});
  /// dhidden [B, S, D]: dLoss/dhidden of the last forward. Adds parameter gradients to the slots;
  /// `stage_done(stage)` runs when those of a stage are complete, last stage first.
  void backward(const at::Tensor& dhidden,
                const std::function<void(std::int64_t)>& stage_done = {});

 private:
  LlamaForCausalLM& model_;
  bool recompute_;
  at::Tensor ids_;
  RotaryTable rotary_;
  std::vector<at::Tensor> inputs_, outputs_;  // outputs_ hold the graphs; empty with recompute
};

}  // namespace fbi::nn
