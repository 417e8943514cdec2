#pragma once

#include <memory>

#include <torch/nn/module.h>

#include "fbi/config/run_config.h"

namespace fbi::parity {

/// A causal language model whose parameters carry the published names.
struct CausalLm : torch::nn::Module {
  /// tokens int64 [B, S] -> logits [B, S, V] in the compute dtype.
  virtual at::Tensor forward(const at::Tensor& tokens) = 0;
};

/// LLaMA as a LibTorch user would write it with torch::nn modules and whole-model autograd:
/// FbiLinear projections, or torch::nn::Linear where model.binarize is none. kBf16: products,
/// rotary embedding and attention outputs in bf16; parameters, norms, residual stream and the
/// inside of attention in fp32. Throws UsageError for a tied head or scaled rotary frequencies.
std::shared_ptr<CausalLm> make_latent_llama(const config::ModelConfig& model,
                                            config::Precision precision);

}  // namespace fbi::parity
