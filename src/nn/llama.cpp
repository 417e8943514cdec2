#include "fbi/nn/llama.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "fbi/config/tensor_names.h"
#include "fbi/core/error.h"
#include "fbi/ops/device.h"
#include "fbi/ops/loss.h"
#include "fbi/ops/slot_ops.h"
#include "nn/slots.h"

namespace fbi::nn {
namespace {

constexpr std::int64_t kEvalChunkTokens = 512;  // logits that exist at once while evaluating

at::Tensor ids_tensor(std::span<const std::int32_t> tokens, std::int64_t batch, std::int64_t seq,
                      at::Device device) {
  if (static_cast<std::int64_t>(tokens.size()) != batch * seq)
    throw UsageError(concat("expected ", batch, " x ", seq, " tokens, found ", tokens.size()));
  // from_blob takes no const; the copy below only reads.
  auto* data = const_cast<std::int32_t*>(tokens.data());
  return at::from_blob(data, {batch, seq}, at::TensorOptions().dtype(at::kInt))
      .to(device, at::kLong);
}

class LlamaDecoding final : public eval::DecodingSession {
 public:
  explicit LlamaDecoding(LlamaForCausalLM& model) : model_(model) {
    const auto& c = model.config();
    const auto options =
        at::TensorOptions().dtype(model.options().compute_dtype).device(model.options().device);
    const at::Tensor none = at::empty({1, c.num_key_value_heads, 0, c.head_dim}, options);
    for (std::int64_t layer = 0; layer < c.num_hidden_layers; ++layer)
      caches_.push_back({none, none, 0});
  }

  void feed(std::span<const std::int32_t> ids, std::span<float> logits) override {
    const auto count = static_cast<std::int64_t>(ids.size());
    if (count == 0) throw UsageError("decoding: no token to feed");
    if (position_ + count > model_.max_position())
      throw UsageError(concat("sequence of ", position_ + count,
                              " tokens exceeds max_position_embeddings ", model_.max_position()));
    const at::Tensor hidden =
        model_.forward_cached(ids_tensor(ids, 1, count, model_.options().device), caches_);
    const at::Tensor last = model_.head_logits(hidden.select(1, count - 1)).cpu().contiguous();
    std::copy_n(last.const_data_ptr<float>(), logits.size(), logits.data());
    position_ += count;
  }
  std::int64_t position() const override { return position_; }

 private:
  LlamaForCausalLM& model_;
  std::vector<KeyValueCache> caches_;
  std::int64_t position_ = 0;
};

}  // namespace

LlamaForCausalLM::LlamaForCausalLM(const config::ModelConfig& model, const LlamaOptions& options)
    : config_(model),
      options_(options),
      dtype_description_(
          options.compute_dtype == at::kFloat ? "fp32" : c10::toString(options.compute_dtype)),
      rotary_(model, options.device) {
  const auto values = at::TensorOptions().dtype(options.value_dtype).device(options.device);
  embedding_ = make_embedding_slot(config::kEmbedding, model.vocab_size, model.hidden_size, values);
  slots_.push_back(&embedding_);
  for (std::int64_t index = 0; index < model.num_hidden_layers; ++index) {
    layers_.push_back(std::make_unique<DecoderLayer>(model, index, values));
    for (auto* slot : layers_.back()->slots()) {
      if (!options.allocate_layers && slot->kind == ops::SlotKind::kDense)
        slot->value = at::Tensor();
      slots_.push_back(slot);
    }
  }
  norm_ = make_norm_slot(config::kFinalNorm, model.hidden_size, options.device);
  slots_.push_back(&norm_);
  if (model.tie_word_embeddings) {
    head_ = embedding_;  // shares the value; its gradient is the embedding's tied_grad
  } else {
    head_ = make_embedding_slot(config::kHead, model.vocab_size, model.hidden_size, values);
    slots_.push_back(&head_);
  }
}

std::vector<ops::ParameterSlot*> LlamaForCausalLM::stage_slots(std::int64_t stage) {
  if (stage == stage_count() - 1) return {&norm_};
  return layers_[stage]->slots();
}

void LlamaForCausalLM::allocate_gradients(LayerGradients layers) {
  const auto zeros = [&](const ops::ParameterSlot& slot) {
    return at::zeros(slot.shape, at::TensorOptions().dtype(at::kFloat).device(options_.device));
  };
  const auto first_layer = layers_.front()->slots();
  for (std::size_t index = 0; index < layers_.size(); ++index) {
    const auto layer = layers_[index]->slots();
    for (std::size_t i = 0; i < layer.size(); ++i) {
      const bool matrix = layer[i]->kind != ops::SlotKind::kVector;
      layer[i]->grad_on_demand = matrix && layers == LayerGradients::kOnDemand;
      if (layer[i]->grad_on_demand) continue;
      layer[i]->grad = matrix && index > 0 && layers == LayerGradients::kOneLayer
                           ? first_layer[i]->grad
                           : zeros(*layer[i]);
    }
  }
  for (auto* slot : {&embedding_, &norm_, &head_}) slot->grad = zeros(*slot);
  if (config_.tie_word_embeddings) head_.grad = embedding_.tied_grad = zeros(embedding_);
}

void LlamaForCausalLM::round_weights(at::ScalarType dtype) {
  const auto round = [&](at::Tensor& values) { values.copy_(values.to(dtype)); };
  for (auto* slot : slots_) {
    if (slot->kind != ops::SlotKind::kPacked) {
      round(slot->value);
      continue;
    }
    if (dtype == at::kHalf) {  // the published evaluation casts before it multiplies
      round(slot->alpha);
      round(slot->beta);
    }
    slot->rounding = dtype;
  }
}

void LlamaForCausalLM::round_activations(std::int64_t block) {
  for (auto& layer : layers_) layer->round_activations(block);
}

at::Tensor LlamaForCausalLM::embed(const at::Tensor& ids) const {
  return ops::embedding(ids.reshape(-1), embedding_)
      .to(at::kFloat)
      .view({ids.size(0), ids.size(1), config_.hidden_size});
}

void LlamaForCausalLM::embedding_backward(const at::Tensor& ids, const at::Tensor& dx) {
  ops::accumulate_embedding_gradient(embedding_, ids.reshape(-1),
                                     dx.reshape({-1, config_.hidden_size}),
                                     config_.pad_token_id.value_or(-1));
}

at::Tensor LlamaForCausalLM::forward_stage(std::int64_t stage, const at::Tensor& x,
                                           const RotaryTable& rotary) {
  if (stage == stage_count() - 1) return ops::rms_norm(x, norm_, config_.rms_norm_eps);
  return layers_[stage]->forward(x, rotary, options_.compute_dtype);
}

RotaryTable LlamaForCausalLM::rotary(std::int64_t first, std::int64_t count) const {
  return rotary_.table(first, count, options_.compute_dtype);
}

at::Tensor LlamaForCausalLM::hidden_states(const at::Tensor& ids) {
  const at::NoGradGuard no_grad;
  const RotaryTable table = rotary(0, ids.size(1));
  at::Tensor x = embed(ids);
  for (std::int64_t stage = 0; stage < stage_count(); ++stage) x = forward_stage(stage, x, table);
  return x;
}

at::Tensor LlamaForCausalLM::forward_cached(const at::Tensor& ids,
                                            std::vector<KeyValueCache>& caches) {
  const at::NoGradGuard no_grad;
  const ops::AnyLengthAttention any_length(options_.device);
  const RotaryTable table = rotary(caches.front().length, ids.size(1));
  at::Tensor x = embed(ids);
  for (std::size_t layer = 0; layer < layers_.size(); ++layer)
    x = layers_[layer]->forward(x, table, options_.compute_dtype, &caches[layer]);
  return ops::rms_norm(x, norm_, config_.rms_norm_eps);
}

at::Tensor LlamaForCausalLM::head_logits(const at::Tensor& hidden) {
  const at::NoGradGuard no_grad;
  return ops::linear(hidden, head_, options_.compute_dtype).to(at::kFloat);
}

void LlamaForCausalLM::logits(std::span<const std::int32_t> tokens, std::int64_t batch,
                              std::int64_t seq, std::span<float> out) {
  const ops::AnyLengthAttention any_length(options_.device);
  const at::Tensor hidden = hidden_states(ids_tensor(tokens, batch, seq, options_.device))
                                .view({-1, config_.hidden_size});
  for (std::int64_t begin = 0; begin < batch * seq; begin += kEvalChunkTokens) {
    const at::Tensor chunk =
        head_logits(hidden.slice(0, begin, std::min(begin + kEvalChunkTokens, batch * seq)))
            .cpu()
            .contiguous();
    std::copy_n(chunk.const_data_ptr<float>(), chunk.numel(),
                out.data() + begin * config_.vocab_size);
  }
}

void LlamaForCausalLM::token_nll(std::span<const std::int32_t> tokens, std::int64_t batch,
                                 std::int64_t seq, std::span<float> out) {
  const ops::AnyLengthAttention any_length(options_.device);
  const at::Tensor ids = ids_tensor(tokens, batch, seq, options_.device);
  const at::Tensor hidden =
      hidden_states(ids.slice(1, 0, seq - 1)).reshape({batch * (seq - 1), config_.hidden_size});
  const at::Tensor targets = ids.slice(1, 1, seq).reshape(-1).to(at::kInt);
  for (std::int64_t begin = 0; begin < hidden.size(0); begin += kEvalChunkTokens) {
    const std::int64_t end = std::min(begin + kEvalChunkTokens, hidden.size(0));
    const at::Tensor nll =
        ops::next_token_nll(head_logits(hidden.slice(0, begin, end)), targets.slice(0, begin, end));
    std::copy_n(nll.cpu().const_data_ptr<float>(), end - begin, out.data() + begin);
  }
}

std::unique_ptr<eval::DecodingSession> LlamaForCausalLM::start_decoding() {
  return std::make_unique<LlamaDecoding>(*this);
}

}  // namespace fbi::nn
