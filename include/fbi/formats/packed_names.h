#pragma once

#include <string_view>

/// Names of a binarized linear in packed and native exports, behind the layer's own:
/// `model.layers.0.self_attn.q_proj` + these.
namespace fbi::formats {

inline constexpr std::string_view kSignBits = ".weight_bits";  ///< U8 [O, ceil(I / 8)]
inline constexpr std::string_view kLatentWeight = ".weight";   ///< [O, I]
inline constexpr std::string_view kScale = ".wscale";          ///< alpha
inline constexpr std::string_view kShift = ".wbias";           ///< beta

}  // namespace fbi::formats
