#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "fbi/config/run_config.h"
#include "fbi/formats/gguf.h"
#include "fbi/text/tokenizer.h"

namespace fbi::exporter {

inline constexpr const char* kRopeFactors = "rope_freqs.weight";

/// "model.layers.3.mlp.up_proj.weight" -> "blk.3.ffn_up.weight".
std::string gguf_name(const std::string& name);

/// Heads whose rows llama.cpp orders in its own way: those of q and k; 0 for other tensors.
std::int64_t permuted_heads(const std::string& name, const config::ModelConfig& model);

/// Where row `row` of a matrix of `rows` rows and `heads` heads comes from: in each head the two
/// halves that the rotary embedding turns together are interleaved.
std::int64_t source_row(std::int64_t row, std::int64_t rows, std::int64_t heads);

/// By which the frequencies of Llama-3's scaled rotary embedding are divided, [head_dim / 2]; empty
/// for other kinds.
std::vector<float> rope_factors(const config::ModelConfig& model);

/// general.file_type: what most matrices are.
enum class FileKind : std::uint32_t { kF32 = 0, kF16 = 1, kQ1_0 = 40 };

/// Architecture and tokenizer; `tokenizer` may be null. `model` is resolved.
formats::GgufMetadata gguf_metadata(const config::ModelConfig& model, FileKind kind,
                                    const std::string& title, const text::Tokenizer* tokenizer);

}  // namespace fbi::exporter
