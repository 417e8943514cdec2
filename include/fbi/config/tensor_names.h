#pragma once

#include <cstdint>
#include <string>
#include <string_view>

/// What the tensors of a model are called in Hugging Face folders and in all that is written here.
namespace fbi::config {

inline constexpr const char* kEmbedding = "model.embed_tokens.weight";
inline constexpr const char* kFinalNorm = "model.norm.weight";
inline constexpr const char* kHead = "lm_head.weight";
std::string layer_prefix(std::int64_t layer);  ///< "model.layers.0."
/// Behind a layer_prefix:
inline constexpr const char* kInputNorm = "input_layernorm.weight";
inline constexpr const char* kPostAttentionNorm = "post_attention_layernorm.weight";

/// Behind the name of a linear layer, `model.layers.0.self_attn.q_proj`:
inline constexpr std::string_view kLatentWeight = ".weight";   ///< [O, I]; of a dense layer, too
inline constexpr std::string_view kSignBits = ".weight_bits";  ///< U8 [O, ceil(I / 8)], if packed
inline constexpr std::string_view kScale = ".wscale";          ///< alpha
inline constexpr std::string_view kShift = ".wbias";           ///< beta

/// "….q_proj.weight" -> "….q_proj.weight_bits", "….q_proj.wscale" or "….q_proj.wbias".
std::string sign_bits_name(std::string_view weight);
std::string scale_name(std::string_view weight);
std::string shift_name(std::string_view weight);

/// Whether files may hold a tensor that no architecture has: `rotary_emb.inv_freq`, which the
/// published checkpoints hold, or the head although it is tied to the embedding.
bool is_passed_over(std::string_view name, bool tied_head);

}  // namespace fbi::config
