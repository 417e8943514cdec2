#include "exporter/gguf_layout.h"

#include <array>
#include <cmath>
#include <numbers>
#include <optional>
#include <string_view>
#include <utility>

#include "fbi/core/error.h"
#include "fbi/text/byte_level.h"

namespace fbi::exporter {
namespace {

using formats::GgufMetadata;
using formats::GgufValue;

constexpr std::array<std::pair<std::string_view, std::string_view>, 12> kNames = {{
    {"model.embed_tokens", "token_embd"},
    {"model.norm", "output_norm"},
    {"lm_head", "output"},
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
}};

std::uint32_t u32(std::int64_t value) {
  return static_cast<std::uint32_t>(value);
}

void add_architecture(GgufMetadata& out, const config::ModelConfig& model) {
  const auto add = [&out](const char* key, GgufValue value) {
    out.emplace_back(std::string("llama.") + key, std::move(value));
  };
  add("block_count", u32(model.num_hidden_layers));
  add("context_length", u32(model.max_position_embeddings));
  add("embedding_length", u32(model.hidden_size));
  add("feed_forward_length", u32(model.intermediate_size));
  add("vocab_size", u32(model.vocab_size));
  add("attention.head_count", u32(model.num_attention_heads));
  add("attention.head_count_kv", u32(model.num_key_value_heads));
  add("attention.key_length", u32(model.head_dim));
  add("attention.value_length", u32(model.head_dim));
  add("attention.layer_norm_rms_epsilon", static_cast<float>(model.rms_norm_eps));
  add("rope.dimension_count", u32(model.head_dim));
  add("rope.freq_base", static_cast<float>(model.rope_theta));
  if (model.rope_scaling.type == "linear") {
    add("rope.scaling.type", std::string("linear"));
    add("rope.scaling.factor", static_cast<float>(model.rope_scaling.factor));
  }
}

/// llama.cpp takes the vocabulary's size from the tokens: rows of the embedding without a piece get
/// unused ones.
void add_pieces(GgufMetadata& out, const text::Tokenizer& tokenizer, std::int64_t vocab_size) {
  std::vector<std::string> pieces;
  std::vector<float> scores;
  std::vector<std::int32_t> types;
  for (std::int32_t id = 0; id < vocab_size; ++id) {
    const bool unused = id >= tokenizer.vocab_size();
    pieces.push_back(unused ? concat("[PAD", id, "]") : tokenizer.piece(id));
    scores.push_back(unused ? 0 : tokenizer.score(id));
    types.push_back(
        static_cast<std::int32_t>(unused ? text::PieceType::kUnused : tokenizer.type(id)));
  }
  out.emplace_back("tokenizer.ggml.tokens", std::move(pieces));
  out.emplace_back("tokenizer.ggml.scores", std::move(scores));
  out.emplace_back("tokenizer.ggml.token_type", std::move(types));
}

/// llama.cpp's name of the words that text is cut into.
const char* pre_of(text::WordSplit split) {
  switch (split) {
    case text::WordSplit::kLlama3:
      return "llama-bpe";
    case text::WordSplit::kSmolLm:
      return "smollm";
    case text::WordSplit::kGpt2:
      break;
  }
  return "gpt-2";
}

void add_tokenizer(GgufMetadata& out, const text::Tokenizer& tokenizer, std::int64_t vocab_size) {
  const auto rules = text::byte_level_rules(tokenizer);
  out.emplace_back("tokenizer.ggml.model", std::string(rules ? "gpt2" : "llama"));
  out.emplace_back("tokenizer.ggml.pre", std::string(rules ? pre_of(rules->split) : "default"));
  add_pieces(out, tokenizer, vocab_size);
  if (rules) out.emplace_back("tokenizer.ggml.merges", rules->merges);
  const auto add_id = [&out](const char* name, std::optional<std::int32_t> id) {
    if (id) out.emplace_back(concat("tokenizer.ggml.", name, "_token_id"), u32(*id));
  };
  add_id("bos", tokenizer.bos_id());
  add_id("eos", tokenizer.eos_id());
  add_id("unknown", tokenizer.unk_id());
  add_id("padding", tokenizer.pad_id());
  out.emplace_back("tokenizer.ggml.add_bos_token", true);
  out.emplace_back("tokenizer.ggml.add_eos_token", false);
  out.emplace_back("tokenizer.ggml.add_space_prefix", tokenizer.adds_space_prefix());
}

}  // namespace

std::string gguf_name(const std::string& name) {
  constexpr std::string_view kLayers = "model.layers.", kWeight = ".weight";
  std::string_view rest = name;
  std::string block;
  if (rest.starts_with(kLayers)) {
    rest.remove_prefix(kLayers.size());
    const auto dot = rest.find('.');
    block = concat("blk.", rest.substr(0, dot), ".");
    rest.remove_prefix(dot + 1);
  }
  if (rest.ends_with(kWeight)) rest.remove_suffix(kWeight.size());
  for (const auto& [ours, theirs] : kNames) {
    if (rest == ours) return concat(block, theirs, kWeight);
  }
  throw UsageError(concat("GGUF has no name for tensor ", name));
}

std::int64_t permuted_heads(const std::string& name, const config::ModelConfig& model) {
  if (name.ends_with("q_proj.weight")) return model.num_attention_heads;
  return name.ends_with("k_proj.weight") ? model.num_key_value_heads : 0;
}

std::int64_t source_row(std::int64_t row, std::int64_t rows, std::int64_t heads) {
  const std::int64_t size = rows / heads;
  const std::int64_t head = row / size, inside = row % size;
  return head * size + inside % 2 * (size / 2) + inside / 2;
}

std::vector<float> rope_factors(const config::ModelConfig& model) {
  const config::RopeScaling& rope = model.rope_scaling;
  std::vector<float> factors;
  if (rope.type != "llama3") return factors;
  const auto context = static_cast<double>(rope.original_max_position_embeddings);
  for (std::int64_t i = 0; i < model.head_dim; i += 2) {
    const double frequency =
        std::pow(model.rope_theta, -static_cast<double>(i) / static_cast<double>(model.head_dim));
    const double wavelength = 2 * std::numbers::pi / frequency;
    const double smooth = (context / wavelength - rope.low_freq_factor) /
                          (rope.high_freq_factor - rope.low_freq_factor);
    const double factor = wavelength < context / rope.high_freq_factor ? 1
                          : wavelength > context / rope.low_freq_factor
                              ? rope.factor
                              : 1 / ((1 - smooth) / rope.factor + smooth);
    factors.push_back(static_cast<float>(factor));
  }
  return factors;
}

GgufMetadata gguf_metadata(const config::ModelConfig& model, FileKind kind,
                           const std::string& title, const text::Tokenizer* tokenizer) {
  GgufMetadata out;
  out.emplace_back("general.architecture", std::string("llama"));
  out.emplace_back("general.name", title);
  out.emplace_back("general.file_type", static_cast<std::uint32_t>(kind));
  add_architecture(out, model);
  if (tokenizer) {
    add_tokenizer(out, *tokenizer, model.vocab_size);
  } else {
    out.emplace_back("tokenizer.ggml.model", std::string("no_vocab"));
  }
  return out;
}

}  // namespace fbi::exporter
