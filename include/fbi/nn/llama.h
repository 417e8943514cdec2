#pragma once

#include <functional>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "fbi/config/run_config.h"
#include "fbi/eval/language_model.h"
#include "fbi/nn/rotary_embedding.h"
#include "fbi/ops/parameter_slot.h"

namespace fbi::nn {

/// Keys and values of the tokens fed so far, one layer: [1, K, capacity, E] each; `length`
/// positions are filled. The capacity grows as tokens are fed.
struct KeyValueCache {
  at::Tensor keys;
  at::Tensor values;
  std::int64_t length = 0;
};

/// One pre-norm LLaMA block: x + attention(norm(x)), then x + down(silu(gate(h)) · up(h)) with h =
/// norm(x). Of what is cheap to make again (norm(x), silu(gate)·up) its graph keeps nothing.
class DecoderLayer {
 public:
  DecoderLayer(const config::ModelConfig& model, std::int64_t index,
               const at::TensorOptions& values);
  DecoderLayer(const DecoderLayer&) = delete;  // graphs hold the addresses of the slots
  DecoderLayer& operator=(const DecoderLayer&) = delete;

  /// x [B, S, D] fp32 (the residual stream) -> the same shape. Matrix products and attention run in
  /// `dtype`.
  at::Tensor forward(const at::Tensor& x, const RotaryTable& rotary, at::ScalarType dtype,
                     KeyValueCache* cache = nullptr);
  std::vector<ops::ParameterSlot*> slots();
  void round_activations(std::int64_t block) { activation_block_ = block; }

 private:
  /// Of norm(x) and the slots.
  std::vector<at::Tensor> products_of_normed(const at::Tensor& x, ops::ParameterSlot& norm,
                                             const std::vector<ops::ParameterSlot*>& slots,
                                             at::ScalarType dtype);
  at::Tensor attention(const at::Tensor& x, const RotaryTable& rotary, at::ScalarType dtype,
                       KeyValueCache* cache);
  at::Tensor mlp(const at::Tensor& x, at::ScalarType dtype);
  void tie_scales(const config::ModelConfig& model);

  std::int64_t heads_, key_value_heads_, head_dim_;
  double eps_;
  std::int64_t activation_block_ = 0;  ///< 0: not rounded
  ops::ParameterSlot input_norm_, q_, k_, v_, o_, post_attention_norm_, gate_, up_, down_;
};

struct LlamaOptions {
  at::Device device = at::kCPU;
  /// Of matrix products and attention; norms, residual stream and losses are fp32.
  at::ScalarType compute_dtype = at::kFloat;
  at::ScalarType value_dtype = at::kFloat;  ///< embedding, head and dense linears are kept in it;
                                            ///< others than fp32 for inference only
  bool allocate_layers = true;  ///< false: matrices of dense decoder layers have no value until the
                                ///< owner of the model gives them one
};

/// Gradient buffers of the matrices in decoder layers.
enum class LayerGradients {
  kAll,       ///< held all the time
  kOneLayer,  ///< all layers use those of one: for a trainer that takes the gradients of a layer
              ///< away before the next one forms its own (AdamW::reduce_gradients on several ranks)
  kOnDemand,  ///< from a step's first backward to the end of its update: until then activations,
              ///< which go as backward comes, have their room
};

/// The trainer's LLaMA: parameters are ParameterSlots (packed signs or dense), gradients go into
/// the slots. It holds working copies only; latent weights live in the optimizer.
class LlamaForCausalLM final : public eval::LanguageModel {
 public:
  LlamaForCausalLM(const config::ModelConfig& model, const LlamaOptions& options);

  const config::ModelConfig& config() const { return config_; }
  const LlamaOptions& options() const { return options_; }
  /// Every parameter once, in the published order (a tied head is not listed); addresses stay
  /// valid.
  const std::vector<ops::ParameterSlot*>& slots() const { return slots_; }
  /// Zeroed fp32 buffers for all slots, but for the matrices of decoder layers as `layers` says.
  void allocate_gradients(LayerGradients layers = LayerGradients::kAll);

  /// Evaluation only: rounds every weight to `dtype`. Binarized ones become fp16(fp16(beta) ±
  /// fp16(alpha)), as in the published evaluation, or bf16(beta ± alpha), as in bf16 training.
  void round_weights(at::ScalarType dtype);

  /// Evaluation only: inputs of the decoder's linear layers are rounded to int8, `block` at a time
  /// with one fp16 scale each, as llama.cpp does for low-bit matrices. The widths are multiples of
  /// it.
  void round_activations(std::int64_t block);

  /// Stages of the forward pass; `stage` 0..L-1 are decoder layers, L is the final norm.
  std::int64_t stage_count() const { return static_cast<std::int64_t>(layers_.size()) + 1; }
  at::Tensor embed(const at::Tensor& ids) const;  ///< int64 [B, S] -> fp32 [B, S, D]
  at::Tensor forward_stage(std::int64_t stage, const at::Tensor& x, const RotaryTable& rotary);
  void embedding_backward(const at::Tensor& ids, const at::Tensor& dx);
  RotaryTable rotary(std::int64_t first, std::int64_t count) const;
  ops::ParameterSlot& head() { return head_; }
  ops::ParameterSlot& embedding() { return embedding_; }
  /// The parameters of a stage.
  std::vector<ops::ParameterSlot*> stage_slots(std::int64_t stage);

  /// Hidden states after the final norm, fp32 [B, S, D], without gradient.
  at::Tensor hidden_states(const at::Tensor& ids);
  /// fp32 [T, V] = hidden [T, D] times the head, product in the compute dtype.
  at::Tensor head_logits(const at::Tensor& hidden);

  // eval::LanguageModel
  std::int64_t vocab_size() const override { return config_.vocab_size; }
  std::int64_t max_position() const override { return config_.max_position_embeddings; }
  std::string dtype_description() const override { return dtype_description_; }
  void set_dtype_description(std::string text) { dtype_description_ = std::move(text); }
  void logits(std::span<const std::int32_t> tokens, std::int64_t batch, std::int64_t seq,
              std::span<float> out) override;
  void token_nll(std::span<const std::int32_t> tokens, std::int64_t batch, std::int64_t seq,
                 std::span<float> out) override;
  std::unique_ptr<eval::DecodingSession> start_decoding() override;

  /// One step of a cached decode, hidden states of the new tokens; `caches` has one entry per
  /// layer.
  at::Tensor forward_cached(const at::Tensor& ids, std::vector<KeyValueCache>& caches);

 private:
  config::ModelConfig config_;
  LlamaOptions options_;
  std::string dtype_description_;
  RotaryEmbedding rotary_;
  ops::ParameterSlot embedding_, norm_, head_;
  std::vector<std::unique_ptr<DecoderLayer>> layers_;
  std::vector<ops::ParameterSlot*> slots_;
};

}  // namespace fbi::nn
